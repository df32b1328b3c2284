//! The allocator's settings.
//!
//! With its defaults glibc keeps an arena per thread, and after some large blocks were freed it serves the next ones from the heap, where
//! sled's segments leave holes that are never given back. The store alone then occupies 40 to 60 MiB with 100,000 events queued, and
//! half of that with the two settings below (`cargo bench -p dumbwaiter-store` shows both).

/// Arenas: the event loop and the store's writer are the two threads that allocate much.
#[cfg(target_env = "gnu")]
const ARENAS: libc::c_int = 2;
/// Blocks from this size on are given back to the system as soon as they are freed.
#[cfg(target_env = "gnu")]
const MAPPED_FROM_BYTES: libc::c_int = 128 * 1024;

/// Sets the allocator up for a small device. To be called before threads allocate; elsewhere than on glibc it does nothing.
#[cfg(target_env = "gnu")]
#[allow(unsafe_code, reason = "glibc has no safe call for its allocator's settings")]
pub fn keep_small() {
    // SAFETY: mallopt(3) takes two integers, keeps no pointer, and is thread-safe; a value that it does not know it refuses.
    let taken = unsafe { libc::mallopt(libc::M_ARENA_MAX, ARENAS) & libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_FROM_BYTES) };
    if taken != 1 {
        tracing::warn!("the allocator took no settings: the daemon may need twice the memory");
    }
}

/// Nothing to set.
#[cfg(not(target_env = "gnu"))]
pub fn keep_small() {}

/// Gives back to the system what the allocator keeps of memory that is no longer used: after the start, when the store was read. Elsewhere
/// than on glibc it does nothing.
#[cfg(target_env = "gnu")]
#[allow(unsafe_code, reason = "glibc has no safe call for it")]
pub fn give_back() {
    // SAFETY: malloc_trim(3) touches free memory only, and is thread-safe. Whether there was any does not matter.
    unsafe { libc::malloc_trim(0) };
}

/// Nothing to give.
#[cfg(not(target_env = "gnu"))]
pub fn give_back() {}
