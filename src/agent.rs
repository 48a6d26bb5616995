//! What steps may ask of an ssh agent, here and on builders: to list its keys and to sign, and nothing that changes it
//! (draft-ietf-sshm-ssh-agent, "Requests from the client to the agent"). Pure.

/// SSH_AGENTC_REQUEST_IDENTITIES and SSH_AGENTC_SIGN_REQUEST.
const ALLOWED: [u8; 2] = [11, 13];
/// SSH_AGENT_FAILURE, a message of one byte.
const FAILURE: [u8; 5] = [0, 0, 0, 1, 5];
/// What a message may have besides its length: OpenSSH's AGENT_MAX_LEN.
pub(crate) const LONGEST: usize = 256 << 10;

/// The answer to a request, its length before it, that an agent must not see; `None` if it may.
pub(crate) fn refusal(request: &[u8]) -> Option<Vec<u8>> {
    let allowed = request.get(4).is_some_and(|kind| ALLOWED.contains(kind));
    (!allowed).then(|| FAILURE.to_vec())
}

#[cfg(test)]
mod t {
    use super::*;

    #[test]
    fn lists_and_signs_and_nothing_else() {
        for kind in 0..=u8::MAX {
            let refused = refusal(&[0, 0, 0, 2, kind, 0]);
            // The draft's numbers: request identities, sign.
            assert_eq!(refused.is_none(), kind == 11 || kind == 13, "{kind}");
        }
        assert_eq!(refusal(&[0, 0, 0, 0]), Some(vec![0, 0, 0, 1, 5]));
    }
}
