//! What Redis's errors mean for the caller and for the storage's health.

use redis::ErrorKind;
use redis::RedisError;
use redis::ServerErrorKind;

use crate::store::StoreError;
use crate::store::health::Trouble;

/// An error of Redis, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    /// For the caller.
    pub(super) error: StoreError,
    /// For the health, when it is to change.
    pub(super) trouble: Option<Trouble>,
    /// Whether the connection is of no more use, or its state unknown.
    pub(super) disconnects: bool,
}

impl Failure {
    /// The answer of the server was none of those it may give.
    pub(super) fn nonsense() -> Self {
        let error = StoreError::Damaged("Redis gave an answer of another form than asked for".to_owned());
        Self { error, trouble: None, disconnects: true }
    }

    pub(super) fn of(error: &RedisError) -> Self {
        let text = error.to_string();
        let lasting = |error: StoreError, trouble: Trouble| Self { error, trouble: Some(trouble), disconnects: false };
        if error.is_timeout() {
            return Self { error: StoreError::Timeout(text), trouble: None, disconnects: true };
        }
        // Before version 7 the code of an error within a script is in the middle of the text.
        let says = |code: &str| error.code() == Some(code) || text.contains(&format!("-{code} "));
        if says("OOM") {
            let text = "Redis has reached its maxmemory".to_owned();
            return lasting(StoreError::Full(text.clone()), Trouble::Full(text));
        }
        for (code, why) in READ_ONLY {
            if says(code) {
                return lasting(StoreError::ReadOnly(why.to_owned()), Trouble::ReadOnly(why.to_owned()));
            }
        }
        for code in ["NOAUTH", "WRONGPASS", "NOPERM"] {
            if says(code) {
                return lasting(StoreError::Unavailable(text.clone()), Trouble::Down(text));
            }
        }
        if says("WRONGTYPE") {
            let text = format!("a key under the node's prefix is of another type than the node made it: {text}");
            return Self { error: StoreError::Damaged(text), trouble: None, disconnects: false };
        }
        let disconnects = !matches!(error.kind(), ErrorKind::Server(_));
        Self { error: StoreError::Unavailable(text), trouble: None, disconnects }
    }
}

const READ_ONLY: [(&str, &str); 3] = [
    ("MISCONF", "Redis cannot save its data and refuses writes: look at its log and its disk"),
    ("READONLY", "Redis is a replica now and refuses writes"),
    ("NOREPLICAS", "Redis has fewer replicas than its min-replicas-to-write and refuses writes"),
];

/// Whether the script has to be loaded first.
pub(super) fn is_no_script(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::NoScript)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(answer: &str) -> Failure {
        let value = redis::parse_redis_value(answer.as_bytes()).unwrap();
        Failure::of(&value.extract_error().unwrap_err())
    }

    #[test]
    fn errors_are_told_apart_in_the_words_of_every_version() {
        let full = [
            "-OOM command not allowed when used memory > 'maxmemory'.\r\n",
            "-OOM command not allowed when used memory > 'maxmemory'. script: f_1, on @user_script:1.\r\n",
            "-ERR Error running script (call to f_1): @user_script:1: @user_script: 1: -OOM command not allowed\r\n",
        ];
        for answer in full {
            assert!(matches!(failure(answer).error, StoreError::Full(_)), "{answer}");
        }
        let misconf = "-ERR Error running script (call to f_1): @user_script:1: -MISCONF Redis is configured to\r\n";
        for answer in [misconf, "-MISCONF Redis is\r\n", "-READONLY You can't write\r\n", "-NOREPLICAS Not enough\r\n"]
        {
            assert!(matches!(failure(answer).trouble, Some(Trouble::ReadOnly(_))), "{answer}");
        }
        let loading = failure("-LOADING Redis is loading the dataset in memory\r\n");
        assert!(matches!(loading.error, StoreError::Unavailable(_)) && !loading.disconnects);
        assert!(matches!(failure("-NOAUTH Authentication required.\r\n").trouble, Some(Trouble::Down(_))));
        assert!(matches!(failure("-WRONGTYPE Operation against\r\n").error, StoreError::Damaged(_)));
        let timeout = RedisError::from(std::io::Error::from(std::io::ErrorKind::TimedOut));
        assert!(matches!(Failure::of(&timeout).error, StoreError::Timeout(_)));
        assert!(Failure::of(&timeout).disconnects);
    }
}
