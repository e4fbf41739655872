//! The name that somebody may have meant.

/// Letters of words that are compared. Longer ones are no slips of the fingers, and a comparison takes time
/// and memory by the product of both lengths.
const LETTERS_MAX: usize = 64;

/// Returns the name that is nearest to a misspelt one, if one is near.
pub(crate) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let length = word.chars().take(LETTERS_MAX + 1).count();
    // A third of the letters may differ: more would be another word.
    let most = (length / 3).max(1).min(length.saturating_sub(1));
    // A character is a byte at least.
    let is_short = |word: &str| word.len() <= LETTERS_MAX;
    let known = known.into_iter().filter(|name| is_short(word) && is_short(name));
    let near = known.map(|name| (distance(word, name), name));
    near.filter(|(distance, _)| *distance <= most)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// Returns `; did you mean NAME?`, or nothing.
pub(crate) fn hint<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    nearest(word, known).map_or_else(String::new, |name| format!("; did you mean {name}?"))
}

/// Number of letters to insert, remove, replace or swap with their neighbour (optimal string
/// alignment).
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    // Without letters of the one, each letter of the other is inserted.
    let row = |i: usize| (0..=b.len()).map(|j| if i == 0 { j } else { i }).collect();
    let mut rows: Vec<Vec<usize>> = (0..=a.len()).map(row).collect();
    for i in 1..=a.len() {
        for j in 1..=b.len() {
            let differs = usize::from(a[i - 1] != b[j - 1]);
            let mut best =
                (rows[i - 1][j] + 1).min(rows[i][j - 1] + 1).min(rows[i - 1][j - 1] + differs);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = best;
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_name_finds_the_one_that_was_meant() {
        let known = ["participant", "action", "after", "pivot"];
        for (word, expected) in [
            ("particpant", Some("participant")),
            ("atfer", Some("after")),
            ("pivto", Some("pivot")),
            ("depends_on", None),
            ("x", None),
            (&"participant".repeat(10_000), None),
        ] {
            assert_eq!(nearest(word, known), expected, "{word}");
        }
    }
}
