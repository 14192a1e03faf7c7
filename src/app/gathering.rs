//! Questions to all shards, and their answers, which come in parts.

use std::collections::HashMap;
use std::fmt;

/// The receiver of an answer of type `A`.
pub(crate) enum Asker<A> {
    /// The application, with the token of its question.
    App(u64),
    /// A function.
    Function(Box<dyn FnOnce(A)>),
}

impl<A> fmt::Debug for Asker<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::App(token) => f.debug_tuple("App").field(token).finish(),
            Self::Function(_) => f.write_str("Function"),
        }
    }
}

impl<A> Asker<A> {
    /// Returns the token of an application's question.
    pub(super) fn token(&self) -> u64 {
        if let Self::App(token) = self { *token } else { 0 }
    }
}

/// Questions of type `Q` that wait for parts of type `P`, one from each shard.
#[derive(Debug)]
pub(super) struct Gathering<Q, P> {
    unfinished: HashMap<u64, Gathered<Q, P>>,
    /// Number of the next question.
    next: u64,
}

#[derive(Debug)]
struct Gathered<Q, P> {
    question: Q,
    /// The parts that have arrived.
    parts: Vec<P>,
    /// Number of shards.
    shards: usize,
}

impl<Q, P> Default for Gathering<Q, P> {
    fn default() -> Self {
        Self { unfinished: HashMap::new(), next: 0 }
    }
}

impl<Q, P> Gathering<Q, P> {
    /// Adds a question, and returns its number, which its parts name.
    pub(super) fn begin(&mut self, question: Q, shards: u16) -> u64 {
        let number = self.next;
        self.next += 1;
        let shards = usize::from(shards);
        self.unfinished.insert(number, Gathered { question, parts: Vec::new(), shards });
        number
    }

    /// Adds a shard's part to the question with this number. Returns the question and its parts, in the order of their
    /// arrival, when all have arrived.
    pub(super) fn add(&mut self, number: u64, part: P) -> Option<(Q, Vec<P>)> {
        let gathered = self.unfinished.get_mut(&number)?;
        gathered.parts.push(part);
        if gathered.parts.len() < gathered.shards {
            return None;
        }
        self.unfinished.remove(&number).map(|gathered| (gathered.question, gathered.parts))
    }

    /// Returns the number of questions that wait for parts.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.unfinished.len()
    }

    /// Returns the part of each unfinished question that arrived last.
    #[cfg(test)]
    pub(super) fn last_parts(&mut self) -> impl Iterator<Item = &mut P> {
        self.unfinished.values_mut().filter_map(|gathered| gathered.parts.last_mut())
    }
}
