//! What the signer keeps on its disk about ended keys, and what happens to it.

use super::given::{specs, table_of};
use super::*;

fn serial(from: u64) -> AllowedPass {
    AllowedPass::Serial { audience: crate::table::testkit::AUDIENCE.into(), from }
}

/// A signer that has recorded 45 of 100 keys as ended, which are back.
fn with_ends(house: &House) -> (SigningKeeper, Paper) {
    let mut keeper = house.keeper();
    let mut table = house.table(10, 0..100);
    table.by(&mut keeper).unwrap();
    house.patch(11, &mut table, 45..100).by(&mut keeper).unwrap();
    house.patch(12, &mut table, 0..100).by(&mut keeper).unwrap();
    (keeper, table)
}

/// Something that blocks a file, until it is dropped.
struct InTheWay(PathBuf, Vec<u8>);

impl InTheWay {
    fn of(path: PathBuf) -> Self {
        let before = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        fs::write(path.join("x"), "in the way").unwrap();
        Self(path, before)
    }
}

impl Drop for InTheWay {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
        fs::write(&self.0, &self.1).unwrap();
    }
}

/// Somebody has allowed serials to go back, and the disk takes no writes: nothing has gone back,
/// and what was ended counts.
#[test]
fn a_way_back_that_fails_forgets_nothing() {
    let house = House::new();
    let (mut keeper, mut table) = with_ends(&house);
    house.allow(serial(5), NOW);
    let in_the_way = InTheWay::of(house.path(HIGH_WATER));
    assert_eq!(house.table(5, 0..100).by(&mut keeper), Err(SigningReason::Unavailable));
    drop(in_the_way);
    for restarted in [false, true] {
        if restarted {
            drop(keeper);
            keeper = house.keeper();
        }
        let rest = house.patch(13, &mut table, 0..55).by(&mut keeper);
        assert_eq!(rest, Err(SigningReason::Brake), "{restarted}");
    }
    // Once it has gone back, nothing signed before is in force anywhere.
    house.allow(serial(5), NOW);
    let mut back = house.table(5, 0..100);
    back.by(&mut keeper).unwrap();
    drop(keeper);
    let mut keeper = house.keeper();
    house.patch(6, &mut back, 0..55).by(&mut keeper).unwrap();
    assert_eq!(house.patch(7, &mut back, 10..100).by(&mut keeper), Err(SigningReason::Brake));
}

/// An allowance lets a table pass that has a higher serial and lacks changes. Sidecars have what
/// was signed before, and what was ended counts.
#[test]
fn a_table_that_lacks_changes_forgets_nothing() {
    let house = House::new();
    let (mut keeper, _) = with_ends(&house);
    house.table(20, 0..100).by(&mut keeper).unwrap();
    let mut narrow = table_of(&house, 21, 9, &specs(0..100, |_| ()));
    assert_eq!(narrow.by(&mut keeper), Err(SigningReason::Stale));
    house.allow(serial(21), NOW);
    narrow.by(&mut keeper).unwrap();
    for restarted in [false, true] {
        if restarted {
            drop(keeper);
            keeper = house.keeper();
        }
        let rest = house.patch(22, &mut narrow, 0..55).by(&mut keeper);
        assert_eq!(rest, Err(SigningReason::Brake), "{restarted}");
    }
}

/// However many tables patches are over.
#[test]
fn few_tables_stay_in_memory() {
    let house = House::new();
    let mut keeper = house.keeper();
    let mut tables = [1, 2, 3].map(|serial| house.table(serial, 0..100));
    for table in &mut tables {
        table.by(&mut keeper).unwrap();
    }
    for serial in 4..10 {
        let table = &mut tables[serial as usize % 3];
        house.patch(serial, table, 0..100).by(&mut keeper).unwrap();
        assert!(keeper.open_tables() <= 2, "{serial}: {}", keeper.open_tables());
    }
}
