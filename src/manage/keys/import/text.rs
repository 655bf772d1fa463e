//! The text of a foreign file, however its program wrote it: UTF-8 or UTF-16, with or without a
//! byte order mark, with line ends of any system.

use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use zeroize::Zeroizing;

use super::super::super::error::{Error, FileFault, Result};

/// We know of no larger UTF-16 or YAML files; a bound keeps a wrong file from filling the memory.
pub const MAX_BYTES: u64 = 256 << 20;

/// UTF-8 in which every line, including the last, ends in a line feed.
struct UnifiedLines<R> {
    source: R,
    after_return: bool,
    last: u8,
}

/// How bytes encode characters.
enum Encoding {
    Utf16(fn([u8; 2]) -> u16),
    Utf8,
}

/// The file as UTF-8 with line feeds. Bytes that are not UTF-8 pass through: the parser names their
/// line.
pub fn plain<'s>(source: &'s mut dyn BufRead, path: &Path) -> Result<Box<dyn BufRead + 's>> {
    let start: [u8; 4] = {
        let seen = source.fill_buf().map_err(Error::read(path))?;
        std::array::from_fn(|n| seen.get(n).copied().unwrap_or(b'?'))
    };
    let (mark, form) = match start {
        [0xef, 0xbb, 0xbf, _] => (3, Encoding::Utf8),
        [0xff, 0xfe, ..] => (2, Encoding::Utf16(u16::from_le_bytes)),
        [0xfe, 0xff, ..] => (2, Encoding::Utf16(u16::from_be_bytes)),
        // Without a mark: no text that we read begins with a NUL, or has one as its second byte.
        [1..=0xff, 0, 1..=0xff, 0] => (0, Encoding::Utf16(u16::from_le_bytes)),
        [0, 1..=0xff, 0, 1..=0xff] => (0, Encoding::Utf16(u16::from_be_bytes)),
        _ => (0, Encoding::Utf8),
    };
    source.consume(mark);
    match form {
        Encoding::Utf16(unit) => {
            let text = Wiped(narrow(source, path, unit)?, 0);
            Ok(Box::new(BufReader::new(UnifiedLines::of(text))))
        }
        Encoding::Utf8 => Ok(Box::new(BufReader::with_capacity(1 << 16, UnifiedLines::of(source)))),
    }
}

/// The whole file, for parsers that need all of it in memory.
pub fn whole(source: &mut dyn BufRead, path: &Path) -> Result<Zeroizing<String>> {
    let mut text = Zeroizing::new(String::new());
    plain(source, path)?.take(MAX_BYTES + 1).read_to_string(&mut text).map_err(|e| {
        match e.kind() {
            io::ErrorKind::InvalidData => {
                Error::fault(FileFault::new(path, 0, "", "is not UTF-8"), "save it as UTF-8")
            }
            _ => Error::Read { path: path.to_owned(), source: e },
        }
    })?;
    if text.len() as u64 > MAX_BYTES {
        return Err(Error::TooLarge { path: path.to_owned(), max: MAX_BYTES });
    }
    Ok(text)
}

fn narrow(
    source: &mut dyn BufRead,
    path: &Path,
    unit: fn([u8; 2]) -> u16,
) -> Result<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(Vec::new());
    source.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(Error::read(path))?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(Error::TooLarge { path: path.to_owned(), max: MAX_BYTES });
    }
    let (pairs, rest) = bytes.as_chunks::<2>();
    let units = pairs.iter().map(|pair| unit(*pair));
    let mut text = Zeroizing::new(String::with_capacity(bytes.len()));
    for c in char::decode_utf16(units) {
        match c {
            Ok(c) => text.push(c),
            Err(_) => {
                let line = 1 + text.bytes().filter(|b| *b == b'\n').count() as u64;
                return Err(Error::fault(FileFault::new(path, line, "", "is broken UTF-16"), ""));
            }
        }
    }
    if !rest.is_empty() {
        return Err(Error::fault(FileFault::new(path, 0, "", "is broken UTF-16"), ""));
    }
    Ok(Zeroizing::new(std::mem::take(&mut *text).into_bytes()))
}

/// `io::Cursor` over bytes that are wiped.
struct Wiped(Zeroizing<Vec<u8>>, usize);

impl Read for Wiped {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let mut rest = self.0.get(self.1..).unwrap_or_default();
        let read = rest.read(to)?;
        self.1 += read;
        Ok(read)
    }
}

// === impl UnifiedLines ===

impl<R: Read> UnifiedLines<R> {
    const fn of(source: R) -> Self {
        Self { source, after_return: false, last: b'\n' }
    }
}

impl<R: Read> Read for UnifiedLines<R> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        loop {
            let read = self.source.read(to)?;
            if read == 0 {
                // Makes parsers count the last line like any other.
                return match (self.last, to.first_mut()) {
                    (b'\n', _) | (_, None) => Ok(0),
                    (_, Some(first)) => {
                        self.last = b'\n';
                        *first = b'\n';
                        Ok(1)
                    }
                };
            }
            let bytes = to.get_mut(..read).unwrap_or_default();
            let kept = if self.after_return || memchr::memchr(b'\r', bytes).is_some() {
                self.unify(bytes)
            } else {
                read
            };
            if let Some(last) = kept.checked_sub(1).and_then(|at| to.get(at)) {
                self.last = *last;
                return Ok(kept);
            }
        }
    }
}

impl<R> UnifiedLines<R> {
    /// CR LF and CR become LF, in place. Returns the remaining length.
    fn unify(&mut self, bytes: &mut [u8]) -> usize {
        let mut kept = 0;
        for at in 0..bytes.len() {
            let Some(byte) = bytes.get(at).copied() else { break };
            let ends_pair = byte == b'\n' && self.after_return;
            self.after_return = byte == b'\r';
            if ends_pair {
                continue;
            }
            if let Some(place) = bytes.get_mut(kept) {
                *place = if byte == b'\r' { b'\n' } else { byte };
            }
            kept += 1;
        }
        kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> String {
        let mut source: Box<dyn BufRead> = Box::new(BufReader::with_capacity(5, bytes));
        let mut text = String::new();
        plain(source.as_mut(), Path::new("f")).unwrap().read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn every_program_s_text_is_the_same_text() {
        let wide = |unit: fn(u16) -> [u8; 2], mark: bool| {
            let text = "Käse;b\r\n€;𝄞\r\n";
            let mark = mark.then_some(0xfeff);
            mark.into_iter().chain(text.encode_utf16()).flat_map(unit).collect::<Vec<_>>()
        };
        let want = "Käse;b\n€;𝄞\n";
        let cases = [
            ("unix", "Käse;b\n€;𝄞\n".as_bytes().to_vec()),
            ("no last line end", "Käse;b\n€;𝄞".as_bytes().to_vec()),
            ("windows", "Käse;b\r\n€;𝄞\r\n".as_bytes().to_vec()),
            ("old mac", "Käse;b\r€;𝄞\r".as_bytes().to_vec()),
            ("marked", "\u{feff}Käse;b\r\n€;𝄞\r\n".as_bytes().to_vec()),
            ("utf-16 little, marked", wide(u16::to_le_bytes, true)),
            ("utf-16 big, marked", wide(u16::to_be_bytes, true)),
        ];
        for (name, bytes) in cases {
            assert_eq!(read(&bytes), want, "{name}");
        }
        let bare: Vec<u8> = "name,key\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
        assert_eq!(read(&bare), "name,key\n", "utf-16 without mark");
        assert_eq!(read(b""), "");
    }

    #[test]
    fn broken_utf_16_is_named() {
        let mut bytes: Vec<u8> = "\u{feff}a\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
        bytes.extend(0xd800u16.to_le_bytes());
        let mut source: Box<dyn BufRead> = Box::new(bytes.as_slice());
        let told = plain(source.as_mut(), Path::new("f")).err().unwrap().to_string();
        assert_eq!(told, "f:2: is broken UTF-16");
    }
}
