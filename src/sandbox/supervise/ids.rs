//! The ids of processes that asked for others, in a namespace that has one: credentials(7), setresuid(2) and their kin,
//! as the kernel would have it if there were all ids. Pure.

use super::calls::Ids;

/// Refused: EPERM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Refused;

/// Real, effective, saved and file system id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Four {
    pub(super) real: u32,
    pub(super) effective: u32,
    pub(super) saved: u32,
    pub(super) file: u32,
}

impl Four {
    fn all(id: u32) -> Self {
        Self {
            real: id,
            effective: id,
            saved: id,
            file: id,
        }
    }

    fn has(&self, id: u32) -> bool {
        [self.real, self.effective, self.saved].contains(&id)
    }

    /// setuid(2).
    fn set(self, id: u32, root: bool) -> Result<Self, Refused> {
        match (root, id == self.real || id == self.saved) {
            (true, _) => Ok(Self::all(id)),
            (false, true) => Ok(Self {
                effective: id,
                file: id,
                ..self
            }),
            (false, false) => Err(Refused),
        }
    }

    /// setreuid(2).
    fn set_two(
        self,
        real: Option<u32>,
        effective: Option<u32>,
        root: bool,
    ) -> Result<Self, Refused> {
        let may_be_real = |id| root || id == self.real || id == self.effective;
        let may_be_effective = |id| root || self.has(id);
        if !real.is_none_or(may_be_real) || !effective.is_none_or(may_be_effective) {
            return Err(Refused);
        }
        let (new_real, new_effective) = (
            real.unwrap_or(self.real),
            effective.unwrap_or(self.effective),
        );
        let saves = real.is_some() || effective.is_some_and(|id| id != self.real);
        Ok(Self {
            real: new_real,
            effective: new_effective,
            saved: if saves { new_effective } else { self.saved },
            file: new_effective,
        })
    }

    /// setresuid(2).
    fn set_three(self, ids: [Option<u32>; 3], root: bool) -> Result<Self, Refused> {
        let may = |id: &Option<u32>| root || id.is_none_or(|id| self.has(id));
        if !ids.iter().all(may) {
            return Err(Refused);
        }
        let effective = ids[1].unwrap_or(self.effective);
        Ok(Self {
            real: ids[0].unwrap_or(self.real),
            effective,
            saved: ids[2].unwrap_or(self.saved),
            file: effective,
        })
    }

    /// setfsuid(2), which does nothing where it is refused.
    fn set_file(self, id: u32, root: bool) -> Self {
        match root || self.has(id) || id == self.file {
            true => Self { file: id, ..self },
            false => self,
        }
    }
}

/// All ids of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Credentials {
    pub(super) user: Four,
    pub(super) group: Four,
    pub(super) groups: Vec<u32>,
    /// `PR_SET_KEEPCAPS` (prctl(2)) by root: groups may be changed when the user has been. The kernel takes that back when
    /// another program is executed, which is not seen here.
    pub(super) keeps: bool,
}

impl Credentials {
    pub(super) fn new(uid: u32, gid: u32, groups: Vec<u32>) -> Self {
        Self {
            user: Four::all(uid),
            group: Four::all(gid),
            groups,
            keeps: false,
        }
    }

    /// Whether the process would have CAP_SETUID, CAP_CHOWN and the others that root has.
    pub(super) fn is_root(&self) -> bool {
        self.user.effective == 0
    }

    fn in_group(&self, gid: u32) -> bool {
        self.group.file == gid || self.groups.contains(&gid)
    }

    /// What it has after an order to change them; `groups` are those of setgroups(2). Nothing for a question.
    pub(super) fn after(&self, order: Ids, groups: &[u32]) -> Option<Result<Self, Refused>> {
        let root = self.is_root();
        let groups_too = root || self.keeps;
        let user = |user: Result<Four, Refused>| {
            user.map(|user| Self {
                user,
                ..self.clone()
            })
        };
        let group = |group: Result<Four, Refused>| {
            group.map(|group| Self {
                group,
                ..self.clone()
            })
        };
        Some(match order {
            Ids::SetUid(id) => user(self.user.set(id, root)),
            Ids::SetGid(id) => group(self.group.set(id, groups_too)),
            Ids::SetReUid(real, effective) => user(self.user.set_two(real, effective, root)),
            Ids::SetReGid(real, effective) => {
                group(self.group.set_two(real, effective, groups_too))
            }
            Ids::SetResUid(ids) => user(self.user.set_three(ids, root)),
            Ids::SetResGid(ids) => group(self.group.set_three(ids, groups_too)),
            Ids::SetFsUid(id) => user(Ok(self.user.set_file(id, root))),
            Ids::SetFsGid(id) => group(Ok(self.group.set_file(id, groups_too))),
            Ids::SetGroups { .. } if groups_too => Ok(Self {
                groups: groups.to_vec(),
                ..self.clone()
            }),
            Ids::SetGroups { .. } => Err(Refused),
            Ids::GetUid
            | Ids::GetEuid
            | Ids::GetGid
            | Ids::GetEgid
            | Ids::GetGroups { .. }
            | Ids::GetResUid { .. }
            | Ids::GetResGid { .. } => return None,
        })
    }

    /// Whether it may give a file of `owner` (uid and gid) to `uid` and `gid` (chown(2)).
    pub(super) fn may_chown(&self, owner: (u32, u32), uid: Option<u32>, gid: Option<u32>) -> bool {
        self.is_root()
            || owner.0 == self.user.file
                && uid.is_none_or(|uid| uid == owner.0)
                && gid.is_none_or(|gid| gid == owner.1 || self.in_group(gid))
    }
}

#[cfg(test)]
mod t {
    use super::*;

    fn root() -> Credentials {
        Credentials::new(0, 0, Vec::new())
    }

    fn four(ids: [u32; 4]) -> Four {
        let [real, effective, saved, file] = ids;
        Four {
            real,
            effective,
            saved,
            file,
        }
    }

    /// As setuid(2), setreuid(2), setresuid(2) and setfsuid(2) say.
    #[test]
    fn user_ids_change_as_the_kernel_changes_them() {
        let all = |id| four([id; 4]);
        let check = |before: Four, order, expected: Result<[u32; 4], Refused>| {
            let before = Credentials {
                user: before,
                ..root()
            };
            let after = before.after(order, &[]).unwrap().map(|after| after.user);
            assert_eq!(after, expected.map(four), "{before:?} {order:?}");
        };
        check(all(0), Ids::SetUid(5), Ok([5; 4]));
        check(all(5), Ids::SetUid(0), Err(Refused));
        check(four([5, 7, 9, 7]), Ids::SetUid(9), Ok([5, 9, 9, 9]));
        // As su and sshd give up root for a while, and take it back.
        check(
            all(0),
            Ids::SetResUid([None, Some(5), None]),
            Ok([0, 5, 0, 5]),
        );
        check(
            four([0, 5, 0, 5]),
            Ids::SetResUid([None, Some(0), None]),
            Ok([0; 4]),
        );
        check(
            all(5),
            Ids::SetResUid([Some(5), Some(6), None]),
            Err(Refused),
        );
        check(all(0), Ids::SetReUid(Some(5), Some(5)), Ok([5; 4]));
        check(all(0), Ids::SetReUid(None, Some(5)), Ok([0, 5, 5, 5]));
        // Swapped, as old programs do.
        check(
            four([0, 5, 5, 5]),
            Ids::SetReUid(Some(5), Some(0)),
            Ok([5, 0, 0, 0]),
        );
        check(all(5), Ids::SetReUid(Some(6), None), Err(Refused));
        check(all(0), Ids::SetFsUid(5), Ok([0, 0, 0, 5]));
        check(all(5), Ids::SetFsUid(6), Ok([5; 4]));
    }

    #[test]
    fn only_root_sets_groups() {
        let order = Ids::SetGroups { count: 2, from: 0 };
        let after = root().after(order, &[4, 24]).unwrap().unwrap();
        assert_eq!(after.groups, [4, 24]);
        let bob = Credentials::new(1000, 1000, vec![4]);
        assert_eq!(bob.after(order, &[0]).unwrap(), Err(Refused));
        assert_eq!(
            bob.after(Ids::SetGid(4), &[]).unwrap(),
            Err(Refused),
            "a supplementary group is no saved one"
        );
        assert_eq!(bob.after(Ids::GetUid, &[]), None);
    }

    /// As setpriv does it: the user first, with `PR_SET_KEEPCAPS`.
    #[test]
    fn who_keeps_capabilities_changes_groups_and_not_back() {
        let keeps = Credentials {
            keeps: true,
            ..root()
        };
        let order = Ids::SetResUid([Some(5); 3]);
        let bob = keeps.after(order, &[]).unwrap().unwrap();
        let order = Ids::SetResGid([Some(6); 3]);
        let bob = bob.after(order, &[]).unwrap().unwrap();
        assert_eq!((bob.user, bob.group), (Four::all(5), Four::all(6)));
        assert_eq!(bob.after(Ids::SetUid(0), &[]).unwrap(), Err(Refused));
    }

    #[test]
    fn owners_give_files_to_their_own_groups_only() {
        let bob = Credentials::new(1000, 1000, vec![4]);
        for (owner, uid, gid, may) in [
            ((1000, 1000), None, Some(4), true),
            ((1000, 1000), Some(1000), Some(1000), true),
            ((1000, 1000), Some(0), None, false),
            ((1000, 1000), None, Some(5), false),
            ((0, 4), None, Some(4), false),
            ((0, 0), Some(1000), None, false),
        ] {
            assert_eq!(bob.may_chown(owner, uid, gid), may, "{owner:?}");
            assert!(root().may_chown(owner, uid, gid));
        }
    }
}
