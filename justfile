# Recipes for people. `just` itself: `cargo install just`. The checks of a commit do not need it.

_list:
    @just --list --unsorted

# The tests, without real parts.
test:
    cargo test --workspace

# Everything that a commit must pass. Needs root: it installs what it needs.
ci:
    .ci/run

# Format and lint, as the checks do.
lint:
    cargo fmt --all
    cargo clippy --workspace --all-targets -- -D warnings
    cargo clippy -p dumbwaiter --no-default-features -- -D warnings
    cargo deny --offline check bans licenses sources

# Advisories against the crates in Cargo.lock. Needs the open internet.
advisories:
    cargo deny check advisories

# The whole trip in one command; `just demo --duration 30s`.
demo *ARGUMENTS:
    cargo run -- demo {{ARGUMENTS}}

# Every figure beside its target, on a real mosquitto and a real Kafka; `just bench --only chain,drain`, `just bench --fast`.
bench *ARGUMENTS:
    python3 tests/real/bench.py {{ARGUMENTS}}

# Many seeds of the simulator: `just simulate --seeds 100000 --from 7`.
simulate *ARGUMENTS:
    cargo run -p simulation -- {{ARGUMENTS}}

# Many disks that a power cut could leave: `just power-cuts --images 10000 --seed 7`. `--folder /dev/shm` is faster.
power-cuts *ARGUMENTS:
    cargo run -p power_cut -- {{ARGUMENTS}}

# The same with the running daemon: `just power-cuts-daemon 2000 7`.
power-cuts-daemon IMAGES SEED="1":
    POWER_CUT_IMAGES={{IMAGES}} POWER_CUT_SEED={{SEED}} cargo test -p dumbwaiter --test power_cuts

# A thousand times `kill -9` under load, with Kafka up, down and flapping: `just kills --kills 5000 --seed 7`.
kills *ARGUMENTS="--kills 1000":
    cargo build --package dumbwaiter
    python3 tests/real/kills.py {{ARGUMENTS}}

# libFuzzer on a target for so long, with a nightly compiler: `just fuzz serial 600`; also submit, status, config, store.
fuzz TARGET SECONDS:
    tests/fuzz/libfuzzer/run {{TARGET}} {{SECONDS}}

# The same targets with the stable compiler, by chance, so many times as long as in a check of a commit.
fuzz-stable TIMES SEED="1":
    FUZZ_TIMES={{TIMES}} FUZZ_SEED={{SEED}} cargo test -p fuzz

# Bad lines to a real Kafka, packet by packet, for longer than the checks take. Needs root.
lines *ARGUMENTS="--long":
    cargo build --package dumbwaiter
    python3 tests/real/lines.py {{ARGUMENTS}}

# The same with `delivery = "exactly-once"` and a reader of committed records: `just exactly-once --kills 1000 --seed 7`.
exactly-once *ARGUMENTS="--kills 300":
    cargo build --package dumbwaiter
    python3 tests/real/exactly_once.py {{ARGUMENTS}}

# The pictures of the README, taken anew by the browser tests.
pictures:
    cargo build --package dumbwaiter
    python3 tests/real/board_in_chromium.py --pictures
    python3 tests/real/kitchen_in_chromium.py --pictures
    python3 tests/real/operations_in_chromium.py --pictures

# The binary for a Raspberry Pi, tried under emulation: `just cross aarch64` or `armv7`, after `cross/toolchain`.
cross TARGET:
    cross/build {{TARGET}}
    python3 tests/real/arm_emulated.py {{TARGET}}

# The same by `cross`, in a container made of Debian's packages: needs docker, mmdebstrap and `cargo install cross`.
cross-container TARGET:
    cross/image {{TARGET}}
    cross/build {{TARGET}} --cross
