//! Users and groups by name, looked up in an image's own `/etc/passwd` and `/etc/group` (passwd(5), group(5)).
//! The host's name service is never asked.

use rbuild_llb::op::Owner;
use rbuild_llb::op::UserRef;

/// A user or group the image does not know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OwnerError {
    /// No such user.
    #[error("the image has no user `{0}` in its `/etc/passwd`")]
    User(String),
    /// No such group.
    #[error("the image has no group `{0}` in its `/etc/group`")]
    Group(String),
    /// A name, and no image to look it up in.
    #[error("there is no image to look the user or group `{0}` up in: give numbers")]
    NoAccounts(String),
    /// Neither a name nor a number.
    #[error("`{0}` is not a user: wanted `name`, `uid`, `name:group` or `uid:gid`")]
    Malformed(String),
}

/// The contents of the two files; empty where the image has none.
#[derive(Debug, Clone, Default)]
pub struct Accounts {
    /// `/etc/passwd`
    pub passwd: Vec<u8>,
    /// `/etc/group`
    pub group: Vec<u8>,
}

/// Who a process runs as.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identity {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Supplementary groups, ascending.
    pub groups: Vec<u32>,
    /// Home directory, `/` if the image does not say.
    pub home: String,
}

/// The colon-separated fields of each line.
fn lines(file: &[u8]) -> impl Iterator<Item = Vec<String>> {
    let text = String::from_utf8_lossy(file).into_owned();
    let rows: Vec<Vec<String>> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| line.split(':').map(str::to_owned).collect())
        .collect();
    rows.into_iter()
}

fn number(fields: &[String], at: usize) -> Option<u32> {
    fields.get(at)?.parse().ok()
}

impl Accounts {
    /// The owner `--chown` means, as BuildKit resolves it: a user given by name brings its primary group, a user
    /// given by number the group of the same number. An unknown user is root, and an unknown group leaves the user's.
    pub fn owner(&self, owner: &Owner) -> (u32, u32) {
        let (uid, own_group) = match &owner.user {
            UserRef::Id(id) => (*id, *id),
            UserRef::Name(name) => lines(&self.passwd)
                .find(|fields| fields[0] == *name)
                .and_then(|user| number(&user, 2).zip(number(&user, 3)))
                .unwrap_or((0, 0)),
        };
        let gid = match &owner.group {
            None => own_group,
            Some(UserRef::Id(id)) => *id,
            Some(UserRef::Name(name)) => self.group(name).unwrap_or(own_group),
        };
        (uid, gid)
    }

    fn group(&self, name: &str) -> Result<u32, OwnerError> {
        lines(&self.group)
            .find(|fields| fields[0] == name)
            .and_then(|fields| number(&fields, 2))
            .ok_or_else(|| OwnerError::Group(name.to_owned()))
    }

    /// Who `USER text` runs as. With an explicit group there are no supplementary groups, as in runc.
    ///
    /// # Errors
    /// If a name is unknown; a number need not be.
    pub fn identity(&self, text: &str) -> Result<Identity, OwnerError> {
        let (user, group) = match text.split_once(':') {
            Some((user, group)) => (user, Some(group).filter(|g| !g.is_empty())),
            None => (text, None),
        };
        let user = if user.is_empty() { "0" } else { user };
        let by_name = lines(&self.passwd).find(|fields| fields[0] == user);
        let by_id = || lines(&self.passwd).find(|fields| number(fields, 2) == user.parse().ok());
        let (uid, account) = match (by_name, user.parse::<u32>()) {
            (Some(account), _) => (
                number(&account, 2).ok_or_else(|| OwnerError::User(user.into()))?,
                Some(account),
            ),
            (None, Ok(uid)) => (uid, by_id()),
            (None, Err(_)) if user.contains(|c: char| c.is_whitespace() || c == '/') => {
                return Err(OwnerError::Malformed(text.to_owned()));
            }
            (None, Err(_)) => return Err(OwnerError::User(user.to_owned())),
        };
        let home = account
            .as_ref()
            .and_then(|a| a.get(5))
            .filter(|h| !h.is_empty())
            .map_or("/", |h| h)
            .to_owned();
        let primary = account.as_ref().and_then(|a| number(a, 3)).unwrap_or(0);
        if let Some(group) = group {
            let gid = group.parse().or_else(|_| self.group(group))?;
            return Ok(Identity {
                uid,
                gid,
                groups: Vec::new(),
                home,
            });
        }
        let mut groups: Vec<u32> = match account.as_ref().map(|a| a[0].clone()) {
            None => Vec::new(),
            Some(name) => lines(&self.group)
                .filter(|fields| {
                    fields
                        .get(3)
                        .is_some_and(|members| members.split(',').any(|m| m.trim() == name))
                })
                .filter_map(|fields| number(&fields, 2))
                .collect(),
        };
        groups.sort_unstable();
        groups.dedup();
        Ok(Identity {
            uid,
            gid: primary,
            groups,
            home,
        })
    }
}

#[cfg(test)]
mod t {
    use super::*;

    fn accounts() -> Accounts {
        Accounts {
            passwd: b"root:x:0:0:root:/root:/bin/sh\n# note\nbob:x:1000:1001::/home/bob:/bin/sh\nbad:x:q:1::/:\n".to_vec(),
            group: b"root:x:0:\nadm:x:4:root,bob\nbob:x:1001:\nwheel:x:10:bob\n".to_vec(),
        }
    }

    #[test]
    fn chown_names_and_numbers() {
        let name = |s: &str| UserRef::Name(s.into());
        let check = |user, group, want| assert_eq!(accounts().owner(&Owner { user, group }), want);
        check(UserRef::Id(7), None, (7, 7));
        check(name("bob"), None, (1000, 1001));
        check(name("bob"), Some(name("adm")), (1000, 4));
        check(UserRef::Id(7), Some(UserRef::Id(8)), (7, 8));
        check(name("eve"), None, (0, 0));
        check(name("bob"), Some(name("eve")), (1000, 1001));
        check(UserRef::Id(1), Some(name("eve")), (1, 1));
    }

    #[test]
    fn user_instruction() {
        let identity = |uid, gid, groups: &[u32], home: &str| Identity {
            uid,
            gid,
            groups: groups.into(),
            home: home.into(),
        };
        let check = |text, want| assert_eq!(accounts().identity(text), want, "{text}");
        check("", Ok(identity(0, 0, &[4], "/root")));
        check("bob", Ok(identity(1000, 1001, &[4, 10], "/home/bob")));
        check("1000", Ok(identity(1000, 1001, &[4, 10], "/home/bob")));
        check("4242", Ok(identity(4242, 0, &[], "/")));
        check("bob:adm", Ok(identity(1000, 4, &[], "/home/bob")));
        check("bob:77", Ok(identity(1000, 77, &[], "/home/bob")));
        check("eve", Err(OwnerError::User("eve".into())));
        check("a b", Err(OwnerError::Malformed("a b".into())));
        assert_eq!(
            Accounts::default().identity("5:6"),
            Ok(identity(5, 6, &[], "/"))
        );
    }
}
