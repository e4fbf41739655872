//! The file of identities.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::Deserialize;
use toml::Spanned;
use unanimo_core::{Namespace, ParticipantName};
use unanimo_tls::{Error, File, is_subject};

use super::quotas::Own;
use super::{Identities, Identity, Role, Told};
use crate::entries::Entries;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default)]
    identity: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: Spanned<String>,
    roles: Vec<Role>,
    namespace: Option<String>,
    #[serde(default)]
    participants: Vec<String>,
    #[serde(default)]
    subjects: Vec<String>,
    #[serde(default)]
    tokens: Vec<String>,
    #[serde(default)]
    claims: Vec<String>,
    #[serde(default, rename = "open-transactions")]
    open_transactions: Option<usize>,
    #[serde(default, rename = "open-bytes")]
    open_bytes: Option<usize>,
}

/// Reads the file.
///
/// # Errors
/// It is malformed, or an entry breaks a rule. The message repeats no value of the file, which might be a token or
/// its hash.
pub(crate) fn read(file: &File, content: &[u8]) -> Result<Identities, Error> {
    let entries = Entries::new(file, content)?;
    let document: Document = entries.read("identity", rule)?;
    let (mut identities, mut names) = (Identities::default(), BTreeSet::new());
    for (index, entry) in document.identity.into_iter().enumerate() {
        let line = entries.line_at(entry.name.span().start);
        let place = format!("identity {} (line {line})", index + 1);
        if !names.insert(entry.name.get_ref().clone()) {
            let rule =
                "another one has this name: use another one, or add the tokens to that one's";
            return Err(file.breaks(format!("{place}: {rule}")));
        }
        add(&mut identities, entry).map_err(|rule| file.breaks(format!("{place}: {rule}")))?;
    }
    Ok(identities)
}

/// Returns the rule of a key.
fn rule(key: &str) -> Option<&'static str> {
    Some(match key {
        "name" | "namespace" => "must be a text",
        "roles" => "each must be initiator, participant, operator or viewer",
        "open-transactions" | "open-bytes" => "must be a whole number",
        "participants" | "subjects" | "tokens" | "claims" => "must be a list of texts",
        _ => return None,
    })
}

fn add(identities: &mut Identities, entry: Entry) -> Result<(), String> {
    let Entry { name, roles, namespace, participants, subjects, tokens, claims, .. } = entry;
    let own = Own { transactions: entry.open_transactions, bytes: entry.open_bytes };
    let name = name.into_inner();
    ParticipantName::new(&name).map_err(|rule| format!("name {rule}"))?;
    let namespace = namespace.map(|name| Namespace::new(&name)).transpose();
    let namespace = namespace.map_err(|rule| format!("namespace {rule}"))?;
    let participants = participants.iter().enumerate().map(|(index, name)| {
        let name = ParticipantName::new(name);
        let name = name.map(|name| name.within(namespace.as_ref()));
        name.map_err(|rule| format!("participants[{index}] {rule}"))
    });
    let participants = participants.collect::<Result<Vec<_>, _>>()?;
    if roles.is_empty() {
        return Err("roles must not be empty".to_owned());
    }
    if roles.contains(&Role::Participant) == participants.is_empty() {
        return Err(
            "participants must be there with the role participant, and only with it: name those that it \
             speaks for"
                .to_owned()
        );
    }
    if subjects.is_empty() && tokens.is_empty() && claims.is_empty() {
        return Err("must have subjects, tokens or claims".to_owned());
    }
    if own.is_any() && !roles.contains(&Role::Initiator) {
        let rule = "open-transactions and open-bytes must be absent without the role initiator: only one that has it \
                    begins transactions";
        return Err(rule.to_owned());
    }
    let lists = [subjects.as_slice(), &tokens, &claims];
    let about = told(namespace.as_ref(), &roles, &participants, lists, own);
    identities.told.insert(name.clone(), about);
    if let Some(namespace) = &namespace {
        identities.namespaces.insert(name.clone(), namespace.clone());
    }
    let identity = Arc::new(Identity { name, namespace, roles, participants });
    if own.is_any() {
        // As the initiator of its transactions is stored.
        identities.quotas.insert(identity.full_name(), own);
    }
    for (index, subject) in subjects.into_iter().enumerate() {
        if !is_subject(&subject) {
            return Err(format!(
                "subjects[{index}] must be a URI with its scheme, or a DNS name, as it is among the certificate's \
                 subject alternative names"
            ));
        }
        if identities.subjects.insert(subject, Arc::clone(&identity)).is_some() {
            return Err(format!("subjects[{index}]: another one has it"));
        }
    }
    for (index, claim) in claims.into_iter().enumerate() {
        if identities.claims.insert(claim, Arc::clone(&identity)).is_some() {
            return Err(format!("claims[{index}]: another one has it"));
        }
    }
    for (index, hashed) in tokens.iter().enumerate() {
        let added = identities.tokens.add(hashed, Arc::clone(&identity));
        added.map_err(|bad| format!("tokens[{index}] {bad}"))?;
    }
    Ok(())
}

/// Describes an identity; of its tokens and names their numbers.
fn told(
    namespace: Option<&Namespace>,
    roles: &[Role],
    participants: &[ParticipantName],
    [subjects, tokens, claims]: [&[String]; 3],
    own: Own,
) -> Told {
    let roles: Vec<_> = roles.iter().map(|role| role.name()).collect();
    let participants: Vec<_> = participants.iter().map(ParticipantName::as_str).collect();
    let (roles, participants) = (roles.join("+"), participants.join("+"));
    let of = if participants.is_empty() { "" } else { " of " };
    let counts = [("subjects", subjects), ("tokens", tokens), ("claims", claims)];
    let counts = counts.iter().filter(|(_, all)| !all.is_empty());
    let counts: String = counts.map(|(what, all)| format!(", {what}: {}", all.len())).collect();
    let inside = namespace.map(|name| format!(", namespace {name}")).unwrap_or_default();
    let quota = own.shown();
    let shown = format!("{roles}{of}{participants}{inside}{counts}{quota}");
    let [subjects, tokens, claims] = [subjects, tokens, claims].map(|list| list.join("\n"));
    let mut parts = vec![&roles, &participants, &subjects, &tokens, &claims];
    // One without them is as it was before there were any.
    parts.extend(namespace.is_some().then_some(&inside));
    parts.extend(own.is_any().then_some(&quota));
    Told::new(shown, &parts.into_iter().map(String::as_bytes).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::super::Token;
    use super::*;

    fn parse(text: &str) -> Result<Identities, String> {
        read(&File::new("identities", "who.toml"), text.as_bytes()).map_err(|e| e.to_string())
    }

    /// Tells processes that have come or gone from those that have moved.
    #[test]
    fn one_that_moves_to_another_namespace_is_found() {
        let entry = |name: &str, namespace: &str| {
            format!(
                "[[identity]]\nname = \"{name}\"\nroles = [\"viewer\"]\nsubjects = [\"{name}\"]\n{namespace}\n"
            )
        };
        let (a, b) = ("namespace = \"a\"", "namespace = \"b\"");
        let all = |of: [&str; 4]| {
            let names = ["stays", "moves", "comes-in", "leaves"];
            let text = names.iter().zip(of).map(|(name, namespace)| entry(name, namespace));
            text.collect::<String>()
        };
        let before = parse(&(all([a, a, "", b]) + &entry("gone", a))).expect("identities");
        let now = parse(&(all([a, b, a, ""]) + &entry("new", b))).expect("identities");
        let moved: Vec<String> = before
            .moved(&now)
            .into_iter()
            .map(|of| {
                format!(
                    "{} {:?} {:?}",
                    of.name,
                    of.from.map(|n| n.to_string()),
                    of.to.map(|n| n.to_string())
                )
            })
            .collect();
        assert_eq!(
            moved,
            [
                "comes-in None Some(\"a\")",
                "leaves Some(\"b\") None",
                "moves Some(\"a\") Some(\"b\")",
            ]
        );
        assert_eq!(before.moved(&before), []);
    }

    #[test]
    fn identities_are_found_by_certificate_and_by_token() {
        let token = Token::new([1; Token::RANDOM_BYTES]);
        let text = format!(
            "[[identity]]\nname = \"bank\"\nroles = [\"participant\", \"viewer\"]\n\
             participants = [\"bank\"]\nsubjects = [\"spiffe://x/bank\"]\ntokens = [\"{}\"]\n",
            token.hashed()
        );
        let identities = parse(&text).expect("identities");
        let names = ["bank.example".to_owned(), "spiffe://x/bank".to_owned()];
        let found = identities.of_certificate(&names).expect("by certificate");
        assert_eq!(found.name, "bank");
        assert!(Arc::ptr_eq(found, identities.of_token(token.text()).expect("by token")));
        assert!(identities.of_certificate(&names[..1]).is_none());
        let shop = "[[identity]]\nname = \"shop\"\nroles = [\"viewer\"]\nsubjects = [\"shop\", \"store\"]\n";
        let identities = parse(&(text + shop)).expect("identities");
        let of = |names: [&str; 2]| {
            identities.of_certificate(&names.map(str::to_owned)).map(|found| found.name.clone())
        };
        assert_eq!(of(["shop", "store"]).as_deref(), Some("shop"), "both are its own");
        assert_eq!(of(["shop", "other"]).as_deref(), Some("shop"));
        for several in [["spiffe://x/bank", "shop"], ["shop", "spiffe://x/bank"]] {
            assert_eq!(of(several), None, "which one is meant nobody can tell");
        }
        let mut guess = token.text().to_owned();
        guess.replace_range(guess.len() - 1.., "0");
        for guess in [&guess, "", "unanimo_", "unanimo_0101010101010101_"] {
            assert!(identities.of_token(guess).is_none(), "{guess}");
        }
        assert!(parse("").expect("nobody").subjects.is_empty());
    }

    #[test]
    fn an_identity_of_a_namespace_speaks_for_names_of_it() {
        let entry = "[[identity]]\nname = \"bank\"\nnamespace = \"tenant-a\"\n\
                     roles = [\"participant\", \"initiator\"]\nparticipants = [\"bank\"]\nsubjects = [\"s\"]\n";
        let identities = parse(entry).expect("identities");
        let bank = identities.of_certificate(&["s".to_owned()]).expect("by certificate");
        assert_eq!(bank.full_name(), "tenant-a/bank");
        let own = ParticipantName::full("tenant-a/bank").expect("a name");
        assert_eq!(bank.participants, [own]);
        let plain = parse(&entry.replace("namespace = \"tenant-a\"\n", "")).expect("identities");
        assert_ne!(identities.told(), plain.told(), "a change of it is told");
        for (bad, rule) in [
            ("\"tenant a\"", "namespace must consist of"),
            ("\"a/b\"", "namespace must consist of"),
            ("\"\"", "namespace must not be empty"),
            (&format!("{:?}", "n".repeat(33)), "namespace must be at most 32 bytes, has 33"),
        ] {
            let error = parse(&entry.replace("\"tenant-a\"", bad)).expect_err(rule);
            assert!(error.contains(rule), "{rule} in: {error}");
        }
        let other = entry.replace("\"bank\"", "\"tenant-b/bank\"");
        assert!(parse(&other).is_err(), "nobody names another namespace");
    }

    #[test]
    fn a_mistake_is_told_with_its_place_and_without_a_token() {
        let token = Token::new([1; Token::RANDOM_BYTES]);
        let entry = "[[identity]]\nname = \"a\"\nroles = [\"viewer\"]\nsubjects = [\"s\"]\n";
        for (text, rule) in [
            ("[[identity]\n".to_owned(), "line 1: "),
            ("\n\n[[identity]]\nnam = \"x\"".to_owned(), "unknown field `nam`"),
            (
                entry.replace("viewer", token.text()),
                "line 3: roles: each must be initiator, participant, operator or viewer",
            ),
            (
                entry.replace("[\"s\"]", &format!("{:?}", token.text())),
                "line 4: subjects: must be a list",
            ),
            (
                entry.replace("\"a\"", &format!("[{:?}]", token.hashed())),
                "line 2: name: must be a text",
            ),
            (format!("identity = {:?}", token.text()), "line 1: must be tables with the name"),
            (entry.repeat(2), "identity 2 (line 6): another one has this name"),
            (
                format!("{entry}{}", entry.replace("\"a\"", "\"b\"")),
                "subjects[0]: another one has it",
            ),
            (
                entry.replace("\"a\"", &format!("\"{} b\"", token.text())),
                "identity 1 (line 2): name ",
            ),
            (entry.replace("\"a\"", &format!("\"\"\"{}", token.text())), "line "),
            (format!("{entry}tokens = [{}]", token.hashed()), "line 5: "),
            (format!("{entry}\u{e4} = 1"), "line 5: "),
            (
                entry.replace("\"s\"", "\"x\", \"CN=web\""),
                "subjects[1] must be a URI with its scheme",
            ),
            (entry.replace("\"viewer\"", ""), "roles must not be empty"),
            (entry.replace("viewer", "participant"), "participants must be there with the role"),
            (format!("{entry}participants = [\"p\"]"), "participants must be there with the role"),
            (
                format!("{entry}open-transactions = 5"),
                "open-transactions and open-bytes must be absent",
            ),
            (format!("{entry}open-bytes = -1"), "line 5: open-bytes: must be a whole number"),
            (entry.replace("subjects = [\"s\"]", ""), "must have subjects, tokens or claims"),
            (format!("{entry}tokens = [\"{}\"]", token.text()), "tokens[0] must be ID:HASH"),
        ] {
            let error = parse(&text).expect_err(rule);
            assert!(error.starts_with("use the identities who.toml: "), "{error}");
            assert!(error.contains(rule), "{rule} in: {error}");
            let hashed = token.hashed();
            assert!(!error.contains(token.text()) && !error.contains(&hashed), "{error}");
            assert!(!error.contains(&hashed[17..]), "{error}");
        }
    }
}
