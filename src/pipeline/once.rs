//! Several things at once, equal ones once.

use std::collections::BTreeMap;

use rayon::prelude::*;

/// Does something with each of several things, side by side, and with equal ones once. Equal layers are not rare (what is
/// linked twice), and a worker that makes one must not come to wait for itself in the place of another.
///
/// # Errors
/// One of those that happened.
pub(super) fn once_each<T, K, R, E>(
    things: &[T],
    key: impl Fn(&T) -> K,
    deed: impl Fn(&T) -> Result<R, E> + Sync,
) -> Result<Vec<R>, E>
where
    T: Sync,
    K: Ord,
    R: Clone + Send + Sync,
    E: Send,
{
    let mut first: Vec<&T> = Vec::new();
    let mut places = BTreeMap::new();
    let place_of = |thing| {
        *places.entry(key(thing)).or_insert_with(|| {
            first.push(thing);
            first.len() - 1
        })
    };
    let places: Vec<usize> = things.iter().map(place_of).collect();
    let each = first.into_par_iter().map(&deed);
    let done: Vec<R> = each.collect::<Result<_, E>>()?;
    Ok(places.into_iter().map(|at| done[at].clone()).collect())
}

#[cfg(test)]
mod t {
    use std::sync::atomic::AtomicUsize;
    use std::sync::atomic::Ordering;

    use super::*;

    #[test]
    fn equal_things_are_done_once_and_all_have_the_result() {
        let done = AtomicUsize::new(0);
        let double = |thing: &u32| {
            done.fetch_add(1, Ordering::SeqCst);
            if *thing > 9 {
                Err("too much")
            } else {
                Ok(thing * 2)
            }
        };
        assert_eq!(
            once_each(&[1, 2, 1, 3, 2], |n| *n, double),
            Ok(vec![2, 4, 2, 6, 4])
        );
        assert_eq!(done.swap(0, Ordering::SeqCst), 3);
        assert_eq!(once_each(&[1, 10], |n| *n, double), Err("too much"));
        assert_eq!(once_each(&[], |n| *n, double), Ok(Vec::new()));
    }
}
