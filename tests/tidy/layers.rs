//! The rooms of `src`, as data: ARCHITECTURE.md shows the same table, and a test holds the two together.

/// One room: a module directly under `src`.
pub(crate) struct Room {
    /// Its floor. Rooms of one floor may use each other only where `uses` names them.
    pub(crate) floor: &'static str,
    /// Its name.
    pub(crate) name: &'static str,
    /// The rooms it may name; each stands above it in the table, so that no two can need each other.
    pub(crate) uses: &'static [&'static str],
    /// Whether it is free of input, output, clocks, randomness and tasks.
    pub(crate) pure: bool,
}

const fn pure(floor: &'static str, name: &'static str, uses: &'static [&'static str]) -> Room {
    Room { floor, name, uses, pure: true }
}

const fn worldly(floor: &'static str, name: &'static str, uses: &'static [&'static str]) -> Room {
    Room { floor, name, uses, pure: false }
}

/// All rooms, lowest first.
pub(crate) const ROOMS: &[Room] = &[
    pure("0", "limits", &[]),
    pure("0", "meter", &[]),
    pure("0", "types", &["limits"]),
    pure("0", "hash", &["types"]),
    pure("1", "version", &["limits", "types"]),
    pure("1", "record", &["hash", "types", "version"]),
    pure("1", "ring", &["limits", "types", "hash"]),
    pure("1", "layout", &["limits", "types"]),
    pure("1", "wire", &["limits", "meter", "types", "version", "layout"]),
    pure("2", "merkle", &["limits", "types", "hash"]),
    pure("2", "quorum", &["types"]),
    pure("2", "seal", &["limits", "types"]),
    pure("2", "swim", &["limits", "types", "hash"]),
    pure("2", "view", &["limits", "types", "hash", "ring", "layout", "wire"]),
    pure("2", "plan", &["types", "hash", "ring", "layout", "wire", "view"]),
    worldly("2–3", "env", &[]),
    worldly("3", "store", &["limits", "types", "hash", "env"]),
    worldly("3", "net", &["limits", "meter", "types", "env"]),
    worldly("4", "client", &["limits", "meter", "types", "version", "layout", "wire", "view", "env", "net"]),
    worldly(
        "5",
        "node",
        &[
            "limits", "meter", "types", "hash", "version", "record", "ring", "layout", "wire", "merkle", "quorum",
            "seal", "swim", "view", "plan", "env", "store", "net",
        ],
    ),
    worldly("6", "admin", &["limits", "meter", "wire", "env", "node"]),
    worldly("6", "certs", &["limits", "types", "env", "net"]),
    worldly("6", "config", &["limits", "types", "env", "net", "certs"]),
    worldly(
        "6",
        "cli",
        &[
            "limits", "meter", "types", "hash", "version", "record", "ring", "layout", "wire", "merkle", "quorum",
            "seal", "swim", "view", "plan", "env", "store", "net", "client", "node", "admin", "certs", "config",
        ],
    ),
    worldly("6", "main", &["cli"]),
];

/// What pure rooms never name, in code: each would let the world in.
pub(crate) const IMPURE: &[&str] = &[
    "tokio",
    "quinn",
    "rustls",
    "redis",
    "fjall",
    "rand",
    "std::net",
    "std::fs",
    "std::io",
    "std::env",
    "std::thread",
    "Instant::now",
    "SystemTime::now",
];

/// The room with this name.
pub(crate) fn room(name: &str) -> Option<&'static Room> {
    ROOMS.iter().find(|room| room.name == name)
}

/// The table as ARCHITECTURE.md has it: floor, room, what it may use, pure or not.
pub(crate) fn table() -> Vec<[String; 4]> {
    let row = |room: &Room| {
        let uses: Vec<String> = room.uses.iter().map(|name| format!("`{name}`")).collect();
        let uses = if uses.is_empty() { "nothing".to_owned() } else { uses.join(" ") };
        let pure = if room.pure { "yes" } else { "no" };
        [room.floor.to_owned(), format!("`{}`", room.name), uses, pure.to_owned()]
    };
    ROOMS.iter().map(row).collect()
}

/// The first four cells of the rows of the one table in `markdown` whose header begins with floor and room.
pub(crate) fn table_in(markdown: &str) -> Vec<[String; 4]> {
    let rows = markdown.lines().skip_while(|line| !line.starts_with("| floor | room |")).skip(2);
    let rows = rows.take_while(|line| line.starts_with('|'));
    let cells = |line: &str| {
        let mut cells = line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned());
        std::array::from_fn(|_| cells.next().unwrap_or_default())
    };
    rows.map(cells).collect()
}
