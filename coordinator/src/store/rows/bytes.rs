//! Numbers, texts and words as the log's binary columns hold them.

use uuid::Uuid;

use super::super::Error;
use super::corrupt;

/// First byte of a binary column: its form. Later ones of the program read earlier forms.
const FORM: u8 = 1;

/// Maker of a binary column.
#[derive(Debug)]
pub(super) struct Maker(Vec<u8>);

impl Maker {
    pub(super) fn new() -> Self {
        let mut bytes = Vec::with_capacity(256);
        bytes.push(FORM);
        Self(bytes)
    }

    pub(super) fn finish(self) -> Vec<u8> {
        self.0
    }

    /// Tells whether nothing was put in.
    pub(super) fn is_empty(&self) -> bool {
        self.0.len() == 1
    }

    pub(super) fn byte(&mut self, byte: u8) -> &mut Self {
        self.0.push(byte);
        self
    }

    /// Seven bits in a byte, the low ones first; the high bit says that more follow.
    fn number(&mut self, mut number: u64) -> &mut Self {
        while number >= 0x80 {
            self.0.push((number & 0x7f) as u8 | 0x80);
            number >>= 7;
        }
        self.byte((number & 0x7f) as u8)
    }

    /// A number that is seldom negative, and then close to zero.
    pub(super) fn int(&mut self, int: i64) -> &mut Self {
        self.number(((int << 1) ^ (int >> 63)).cast_unsigned())
    }

    pub(super) fn optional(&mut self, int: Option<i64>) -> &mut Self {
        match int {
            None => self.byte(0),
            Some(int) => self.byte(1).int(int),
        }
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.number(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
        self
    }

    /// Bytes of which everybody knows how many they are.
    pub(super) fn plain(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    pub(super) fn text(&mut self, text: &str) -> &mut Self {
        self.bytes(text.as_bytes())
    }

    /// A word, as its place in a list that only grows at its end; one that is not there is spelled out.
    pub(super) fn word(&mut self, list: &[&str], word: &str) -> &mut Self {
        let place = list.iter().position(|known| *known == word);
        match place.and_then(|place| u8::try_from(place + 1).ok()) {
            Some(place) => self.byte(place),
            None => self.byte(0).text(word),
        }
    }
}

/// Reader of a binary column.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
    what: &'static str,
}

impl<'a> Reader<'a> {
    /// Reads a column of this name.
    pub(super) fn new(bytes: &'a [u8], what: &'static str) -> Result<Self, Error> {
        match bytes.split_first() {
            Some((&FORM, rest)) => Ok(Self { rest, what }),
            Some((form, _)) => Err(corrupt(what, format!("form {form}"))),
            None => Err(corrupt(what, "")),
        }
    }

    pub(super) fn is_at_end(&self) -> bool {
        self.rest.is_empty()
    }

    pub(super) fn corrupt(&self, value: impl AsRef<str>) -> Error {
        corrupt(self.what, value)
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], Error> {
        let Some((taken, rest)) = self.rest.split_at_checked(len) else {
            return Err(self.corrupt(format!("{} bytes too few", len - self.rest.len())));
        };
        self.rest = rest;
        Ok(taken)
    }

    pub(super) fn byte(&mut self) -> Result<u8, Error> {
        Ok(self.take(1)?[0])
    }

    fn number(&mut self) -> Result<u64, Error> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(self.corrupt("a number without an end"))
    }

    pub(super) fn int(&mut self) -> Result<i64, Error> {
        let number = self.number()?;
        Ok((number >> 1).cast_signed() ^ -(number & 1).cast_signed())
    }

    pub(super) fn small(&mut self) -> Result<i16, Error> {
        let int = self.int()?;
        i16::try_from(int).map_err(|_| self.corrupt(int.to_string()))
    }

    pub(super) fn optional(&mut self) -> Result<Option<i64>, Error> {
        match self.byte()? {
            0 => Ok(None),
            1 => self.int().map(Some),
            other => Err(self.corrupt(format!("option {other}"))),
        }
    }

    pub(super) fn bytes(&mut self) -> Result<&'a [u8], Error> {
        let len = self.number()?;
        let len = usize::try_from(len).map_err(|_| self.corrupt(len.to_string()))?;
        self.take(len)
    }

    pub(super) fn uuid(&mut self) -> Result<Uuid, Error> {
        Uuid::from_slice(self.take(16)?).map_err(|error| self.corrupt(error.to_string()))
    }

    pub(super) fn text(&mut self) -> Result<String, Error> {
        let bytes = self.bytes()?;
        let text = str::from_utf8(bytes).map_err(|error| self.corrupt(error.to_string()))?;
        Ok(text.to_owned())
    }

    pub(super) fn word(&mut self, list: &[&str]) -> Result<String, Error> {
        match usize::from(self.byte()?) {
            0 => self.text(),
            place => match list.get(place - 1) {
                Some(word) => Ok((*word).to_owned()),
                None => Err(self.corrupt(format!("word {place}"))),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_in_comes_out() {
        const WORDS: &[&str] = &["a", "b"];
        let ints = [0, 1, -1, 63, 64, i64::MAX, i64::MIN, 1_764_000_000_000];
        let mut maker = Maker::new();
        for int in ints {
            maker.int(int).optional(Some(int)).optional(None);
        }
        maker.text("gid").word(WORDS, "b").word(WORDS, "later");
        let bytes = maker.finish();
        let mut reader = Reader::new(&bytes, "log.body").expect("it can be read");
        for int in ints {
            assert_eq!(reader.int().expect("it can be read"), int);
            assert_eq!(reader.optional().expect("it can be read"), Some(int));
            assert_eq!(reader.optional().expect("it can be read"), None);
        }
        assert_eq!(reader.text().expect("it can be read"), "gid");
        assert_eq!(reader.word(WORDS).expect("it can be read"), "b");
        assert_eq!(reader.word(WORDS).expect("it can be read"), "later");
        assert!(reader.is_at_end());
        assert!(reader.byte().is_err());
        for cut in 0..bytes.len() {
            let Ok(mut reader) = Reader::new(&bytes[..cut], "log.body") else { continue };
            while reader.bytes().is_ok() && !reader.is_at_end() {}
        }
        assert!(Reader::new(&[9], "log.body").is_err(), "a later form");
    }
}
