//! Which step next: a ready-queue over a graph, in the spirit of cargo's. Pure; it neither runs nor waits.
//!
//! Of the steps whose needs are finished, the one with the longest path of expected durations behind it comes
//! first: starting it later would make the whole build longer.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Which limit a step counts against: downloads wait for the network, other steps for processors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lane {
    /// Everything that is not a source.
    Work,
    /// Sources.
    Fetch,
}

/// A step to be queued.
#[derive(Debug, Clone)]
pub(super) struct Node {
    /// Expected duration, in any unit, at least 1 so that depth counts where nothing is known.
    pub cost: u64,
    /// Its limit.
    pub lane: Lane,
    /// Positions of the nodes that must be finished before; each less than this node's own, each once.
    pub needs: Vec<usize>,
}

/// The queue. Nodes go by their position in the list it was made from.
#[derive(Debug)]
pub(super) struct Queue {
    slots: Vec<Slot>,
    /// By [`Lane`]; the greatest is next, of equal ones the first in the list.
    ready: [BinaryHeap<(u64, Reverse<usize>)>; 2],
}

#[derive(Debug)]
struct Slot {
    lane: Lane,
    rank: u64,
    users: Vec<usize>,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting { unfinished: usize },
    Ready,
    Taken,
    Finished,
}

impl Queue {
    /// Queues `nodes`.
    ///
    /// # Panics
    /// If a node needs one that does not stand before it.
    pub(super) fn new(nodes: &[Node]) -> Self {
        let mut slots: Vec<Slot> = Vec::with_capacity(nodes.len());
        for (position, node) in nodes.iter().enumerate() {
            for &need in &node.needs {
                assert!(need < position, "what a node needs stands before it");
                slots[need].users.push(position);
            }
            slots.push(Slot {
                lane: node.lane,
                rank: node.cost,
                users: Vec::new(),
                state: State::Waiting {
                    unfinished: node.needs.len(),
                },
            });
        }
        for position in (0..slots.len()).rev() {
            let longest = slots[position].users.iter().map(|&user| slots[user].rank);
            let behind = longest.max().unwrap_or(0);
            let rank = &mut slots[position].rank;
            *rank = rank.saturating_add(behind);
        }
        let mut queue = Self {
            slots,
            ready: [BinaryHeap::new(), BinaryHeap::new()],
        };
        for position in 0..queue.slots.len() {
            queue.release(position);
        }
        queue
    }

    /// Takes the next node of `lane` that is ready, if there is one.
    pub(super) fn pop(&mut self, lane: Lane) -> Option<usize> {
        let (_, Reverse(position)) = self.ready[lane as usize].pop()?;
        self.slots[position].state = State::Taken;
        Some(position)
    }

    /// Says that a node that was taken is finished, which may make others ready.
    ///
    /// # Panics
    /// If it was not taken, or is finished already.
    pub(super) fn finish(&mut self, position: usize) {
        let slot = &mut self.slots[position];
        assert_eq!(slot.state, State::Taken, "only what was taken is finished");
        slot.state = State::Finished;
        for user in std::mem::take(&mut slot.users) {
            if let State::Waiting { unfinished } = &mut self.slots[user].state {
                *unfinished -= 1;
            }
            self.release(user);
        }
    }

    fn release(&mut self, position: usize) {
        let slot = &mut self.slots[position];
        if slot.state == (State::Waiting { unfinished: 0 }) {
            slot.state = State::Ready;
            self.ready[slot.lane as usize].push((slot.rank, Reverse(position)));
        }
    }
}

#[cfg(test)]
mod t {
    use super::*;

    /// What the queue is to be, told naively.
    #[derive(Clone)]
    struct Model<'a> {
        nodes: &'a [Node],
        taken: Vec<usize>,
        finished: Vec<usize>,
    }

    impl Model<'_> {
        fn rank(&self, of: usize) -> u64 {
            let users = (0..self.nodes.len()).filter(|&n| self.nodes[n].needs.contains(&of));
            self.nodes[of].cost + users.map(|user| self.rank(user)).max().unwrap_or(0)
        }

        fn next(&self, lane: Lane) -> Option<usize> {
            (0..self.nodes.len())
                .filter(|n| self.nodes[*n].lane == lane)
                .filter(|n| !self.taken.contains(n) && !self.finished.contains(n))
                .filter(|&n| {
                    let mut needs = self.nodes[n].needs.iter();
                    needs.all(|need| self.finished.contains(need))
                })
                .max_by_key(|&n| (self.rank(n), Reverse(n)))
        }
    }

    /// Replays `history` (`Ok` takes from a lane, `Err` finishes a node) on a fresh queue.
    fn replay(nodes: &[Node], history: &[Result<Lane, usize>]) -> Queue {
        let mut queue = Queue::new(nodes);
        for step in history {
            match step {
                Ok(lane) => drop(queue.pop(*lane)),
                Err(position) => queue.finish(*position),
            }
        }
        queue
    }

    /// Tries every order of taking and finishing.
    fn explore(model: &Model<'_>, history: &mut Vec<Result<Lane, usize>>, ends: &mut usize) {
        let mut stuck = true;
        for lane in [Lane::Work, Lane::Fetch] {
            let want = model.next(lane);
            assert_eq!(replay(model.nodes, history).pop(lane), want);
            if let Some(position) = want {
                stuck = false;
                let mut then = model.clone();
                then.taken.push(position);
                history.push(Ok(lane));
                explore(&then, history, ends);
                history.pop();
            }
        }
        for (at, &position) in model.taken.iter().enumerate() {
            stuck = false;
            let mut then = model.clone();
            then.taken.remove(at);
            then.finished.push(position);
            history.push(Err(position));
            explore(&then, history, ends);
            history.pop();
        }
        if stuck {
            assert_eq!(model.finished.len(), model.nodes.len());
            *ends += 1;
        }
    }

    #[test]
    fn every_small_graph_in_every_order_is_as_the_model() {
        let pairs: Vec<(usize, usize)> = (0..4).flat_map(|b| (0..b).map(move |a| (a, b))).collect();
        let mut ends = 0;
        for edges in 0..1u32 << pairs.len() {
            let mut nodes: Vec<Node> = (0..4)
                .map(|n| Node {
                    cost: [3, 1, 2, 3][n],
                    lane: [Lane::Fetch, Lane::Work, Lane::Work, Lane::Work][n],
                    needs: Vec::new(),
                })
                .collect();
            for (bit, (a, b)) in pairs.iter().enumerate() {
                if edges >> bit & 1 == 1 {
                    nodes[*b].needs.push(*a);
                }
            }
            let model = Model {
                nodes: &nodes,
                taken: Vec::new(),
                finished: Vec::new(),
            };
            explore(&model, &mut Vec::new(), &mut ends);
        }
        assert!(ends >= 1 << pairs.len());
    }

    #[test]
    fn the_longest_path_goes_first() {
        let node = |cost, needs: &[usize]| Node {
            cost,
            lane: Lane::Work,
            needs: needs.to_vec(),
        };
        // 0 → 2 → 3 takes 6, 1 alone takes 4, 4 takes 6 but stands later.
        let nodes = [
            node(1, &[]),
            node(4, &[]),
            node(2, &[0]),
            node(3, &[2]),
            node(6, &[]),
        ];
        let mut queue = Queue::new(&nodes);
        let mut order = Vec::new();
        while let Some(position) = queue.pop(Lane::Work) {
            order.push(position);
            queue.finish(position);
        }
        assert_eq!(order, [0, 4, 2, 1, 3]);
    }
}
