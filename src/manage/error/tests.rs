//! Tests of the file of the same name above.

use std::os::unix::fs::PermissionsExt as _;

use super::*;

#[test]
fn a_lock_of_somebody_else_names_its_owner() {
    let dir = tempfile::tempdir().unwrap();
    let lock = dir.path().join("keys.toml.lock");
    std::fs::write(&lock, "").unwrap();
    std::fs::set_permissions(&lock, std::fs::Permissions::from_mode(0o600)).unwrap();
    let owner = lock_owner(&lock).unwrap();
    let denied = || io::Error::from(io::ErrorKind::PermissionDenied);
    let said = Error::write(&lock)(denied()).to_string();
    assert!(said.contains(&format!("hint: this lock belongs to {owner}")), "{said}");
    assert!(!said.contains("directory"), "{said}");
    // No lock is there yet, or it is no lock: the directory is at fault.
    for name in ["none.lock", "keys.toml"] {
        let said = Error::write(&dir.path().join(name))(denied()).to_string();
        assert!(said.contains("hint: the directory itself must be writable"), "{said}");
    }
    let said = Error::read(&dir.path().join("signer.pem"))(denied()).to_string();
    assert!(said.contains("hint: run this as a user who may read it"), "{said}");
}
