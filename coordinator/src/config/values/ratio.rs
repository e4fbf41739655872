//! Part of something.

use std::str::FromStr;

use serde::de::{Deserializer, Error as _};
use serde::{Deserialize, Serialize};

use super::Named;

/// Part of something, from 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd, Serialize)]
#[serde(transparent)]
pub struct Ratio(f64);

impl Ratio {
    /// All of it.
    pub const ALL: Self = Self(1.0);

    /// Returns it as a number.
    #[must_use]
    pub fn get(self) -> f64 {
        self.0
    }

    fn new(number: f64) -> Result<Self, String> {
        // Not a number is in no range.
        match (0.0..=1.0).contains(&number) {
            true => Ok(Self(number)),
            false => Err(format!("must be a number from 0 to 1; is {number}")),
        }
    }
}

impl FromStr for Ratio {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = text.parse().map_err(|_| format!("{text:?} is no number from 0 to 1"))?;
        Self::new(number)
    }
}

impl Named for Ratio {
    const NAME: &'static str = "RATIO";

    fn of_text(text: &str) -> Result<Self, String> {
        text.parse()
    }

    fn of_file<'de, D: Deserializer<'de>>(file: D) -> Result<Self, D::Error> {
        Self::new(f64::deserialize(file)?).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::Ratio;

    #[test]
    fn a_ratio_is_from_none_to_all() {
        for (text, number) in [("0", 0.0), ("0.25", 0.25), ("1", 1.0), ("1.0", 1.0)] {
            assert_eq!(text.parse().map(Ratio::get), Ok(number), "{text}");
        }
        for text in ["", "-0.1", "1.01", "NaN", "inf", "10%"] {
            assert!(text.parse::<Ratio>().is_err(), "{text}");
        }
    }
}
