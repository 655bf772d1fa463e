//! The database's file and its connections: whose file it is, on which file system, and how SQLite
//! has to keep it.

use std::fs::{self, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use super::super::error::StoreError;
use super::super::sql::ConnectionPurpose;

/// "kgrg": it tells our file from that of another program.
const APPLICATION: i32 = 0x6b67_7267;

/// File systems whose locks or shared memory span several hosts. SQLite's WAL does not work there
/// (statfs(2)).
const NETWORKED: &[(u64, &str)] = &[
    (0x6969, "NFS"),
    (0xff53_4d42, "CIFS"),
    (0xfe53_4d42, "SMB"),
    (0x517b, "SMB"),
    (0x5346_414f, "AFS"),
    (0x7375_7245, "Coda"),
    (0x0102_1997, "9P"),
    (0x00c3_6400, "Ceph"),
    (0x0bd0_0bd0, "Lustre"),
    (0x4750_4653, "GPFS"),
    (0x7461_636f, "OCFS2"),
    (0x0116_1970, "GFS2"),
];

/// Creates the file if it does not exist, for its owner alone. Refuses a file system on which the
/// database does not work. SQLite gives `-wal` and `-shm` the same mode.
pub(super) fn prepare(path: &Path) -> Result<(), StoreError> {
    let broken = |e: io::Error| refused(path, &e);
    let directory = path.parent().filter(|p| !p.as_os_str().is_empty());
    let directory = directory.unwrap_or(Path::new("."));
    let stat = rustix::fs::statfs(directory).map_err(|e| refused(path, &e.into()))?;
    if let Some(name) = network_name(stat.f_type as u64) {
        return Err(StoreError::Broken {
            what: format!(
                "{} is on {name}, whose locks are not those of one host\n\
                 hint: keep the state directory on a disk of this host",
                path.display()
            ),
        });
    }
    let made = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path);
    match made {
        Ok(_) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            // A restored copy may have the umask's mode.
            for suffix in ["", "-wal", "-shm"] {
                let mut name = path.as_os_str().to_owned();
                name.push(suffix);
                match fs::metadata(&name) {
                    Ok(known) if known.permissions().mode() & 0o077 != 0 => {
                        fs::set_permissions(&name, Permissions::from_mode(0o600))
                            .map_err(broken)?;
                    }
                    _ => {}
                }
            }
            Ok(())
        }
        Err(e) => Err(broken(e)),
    }
}

fn refused(path: &Path, e: &io::Error) -> StoreError {
    match e.kind() {
        io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::StorageFull => {
            StoreError::ReadOnly { why: format!("{}: {e}", path.display()) }
        }
        _ => StoreError::broken(format!(
            "{}: {e}\nhint: the user that runs this needs to write into that directory",
            path.display()
        )),
    }
}

fn network_name(kind: u64) -> Option<&'static str> {
    // The kernel's number may arrive sign-extended.
    NETWORKED.iter().find(|(known, _)| *known == kind & 0xffff_ffff).map(|(_, name)| *name)
}

/// A connection for one thread.
pub(super) fn connect(
    path: &Path,
    purpose: ConnectionPurpose,
    busy_timeout: Duration,
) -> Result<Connection, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_EXRESCODE;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(busy_timeout)?;
    connection.set_prepared_statement_cache_capacity(128);
    // Otherwise SQLite may plan a statement anew for each set of values, at twice the cost of
    // carrying it out (https://sqlite.org/queryplanner-ng.html#qpstab). None of ours depends on them.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    let owner: i32 = connection.pragma_query_value(None, "application_id", |row| row.get(0))?;
    let empty = owner == 0
        && connection
            .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get::<_, u64>(0))?
            == 0;
    if owner != APPLICATION && !empty {
        return Err(StoreError::Broken {
            what: format!(
                "{} is a database of another program\nhint: name another state directory",
                path.display()
            ),
        });
    }
    if purpose == ConnectionPurpose::Write {
        let mode: String =
            connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0))?;
        if !mode.eq_ignore_ascii_case("wal") {
            return Err(StoreError::broken(format!("{}: no write-ahead log", path.display())));
        }
        if empty {
            connection.pragma_update(None, "application_id", APPLICATION)?;
        }
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.pragma_update(None, "journal_size_limit", 64 << 20)?;
        // 64 MiB: a thread of its own moves the log before that.
        connection.pragma_update(None, "wal_autocheckpoint", 16_000)?;
        connection.pragma_update(None, "cache_size", -8_000)?;
    } else {
        connection.pragma_update(None, "query_only", true)?;
        connection.pragma_update(None, "cache_size", -2_000)?;
    }
    connection.pragma_update(None, "foreign_keys", true)?;
    // Nothing that somebody wrote into the schema may call functions with side effects.
    connection.pragma_update(None, "trusted_schema", false)?;
    connection.pragma_update(None, "cell_size_check", true)?;
    Ok(connection)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn network_file_systems_are_known_by_their_numbers() {
        assert_eq!(network_name(0x6969), Some("NFS"));
        assert_eq!(network_name(0xffff_ffff_ff53_4d42), Some("CIFS"));
        assert_eq!(network_name(0xef53), None, "ext4");
        assert_eq!(network_name(0x0102_1994), None, "tmpfs");
    }

    #[test]
    fn the_file_is_its_owners_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keys.db");
        prepare(&path).unwrap();
        let connection = connect(&path, ConnectionPurpose::Write, Duration::ZERO).unwrap();
        connection.execute_batch("CREATE TABLE a (b)").unwrap();
        for suffix in ["", "-wal", "-shm"] {
            let name = format!("{}{suffix}", path.display());
            let mode = fs::metadata(&name).unwrap().permissions().mode() & 0o777;
            assert_eq!(mode, 0o600, "{name}");
        }
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        prepare(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_database_of_another_program_is_not_touched() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("other.db");
        Connection::open(&path).unwrap().execute_batch("CREATE TABLE theirs (a)").unwrap();
        let before = fs::read(&path).unwrap();
        prepare(&path).unwrap();
        let refused = connect(&path, ConnectionPurpose::Write, Duration::ZERO).unwrap_err();
        assert!(refused.to_string().contains("another program"), "{refused}");
        assert_eq!(fs::read(&path).unwrap(), before);
    }
}
