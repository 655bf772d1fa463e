//! Files that several signers sign, one after the other: who has signed a file, and adding one more
//! signature. Imports table.

use std::io::Cursor;

use crate::table::write::{Draft, SealError};
use crate::table::{FileKind, Manifest, PublicKey, Refusal, SignedHead, Trust};

/// Whose signatures a file has. All of them are valid.
///
/// # Errors
///
/// A file that is neither table nor patch, or an invalid signature.
pub fn signers_of(file: &[u8]) -> Result<Vec<PublicKey>, Refusal> {
    let kind: FileKind = Manifest::unverified(file)?.kind;
    Ok(SignedHead::open(file, kind, &Trust::for_inspection())?.signed_by().to_vec())
}

/// The bytes of a file that are signed.
///
/// # Errors
///
/// A file that is neither table nor patch, or whose body does not match its statement.
pub fn message_of(file: &[u8]) -> Result<Vec<u8>, SealError> {
    Ok(Draft::read(Cursor::new(file))?.message().to_vec())
}

/// The file with this signature added.
///
/// # Errors
///
/// An invalid signature, or one by a signer that the manifest does not name.
pub fn with_signature(
    file: &[u8],
    key: &PublicKey,
    signature: &[u8; 64],
) -> Result<Vec<u8>, SealError> {
    let mut draft = Draft::read(Cursor::new(file))?;
    draft.attach(key, signature)?;
    let mut signed = Vec::with_capacity(file.len() + 128);
    draft.write(&mut signed)?;
    Ok(signed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::testkit::{Signer, issue, spec, table_file};

    #[test]
    fn signatures_are_added_to_those_that_are_there() {
        let (first, second, third) = (Signer::new(1), Signer::new(2), Signer::new(3));
        let named = issue(7, &[&first, &second]);
        let file = table_file(&[spec(1)], named, &[&first]);
        assert_eq!(signers_of(&file).unwrap(), [first.key]);
        let message = message_of(&file).unwrap();
        let both = with_signature(&file, &second.key, &second.sign(&message)).unwrap();
        let mut signed = signers_of(&both).unwrap();
        signed.sort();
        let mut want = [first.key, second.key];
        want.sort();
        assert_eq!(signed, want);
        assert!(both.len() > file.len(), "a store tells by the length which has more signatures");
        assert!(with_signature(&file, &third.key, &third.sign(&message)).is_err(), "not named");
        assert!(with_signature(&file, &second.key, &first.sign(&message)).is_err(), "not theirs");
    }
}
