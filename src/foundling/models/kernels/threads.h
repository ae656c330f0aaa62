/* A team of threads inside one call: a barrier that spins (a step has hundreds) and work handed out in small pieces.

With many tokens the pieces are in as many groups as the tokens: each thread begins with its own group's, whose data are
in its core's cache, and then helps the others. */
#include <limits.h>
#include <sched.h>
#include <stdatomic.h>
#ifdef __linux__
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif
#ifdef _OPENMP
#include <omp.h>
#endif

#define GROUPS 8   /* at most */
#define SPINS 1000 /* then let others run: the machine may have fewer free cores than the team has threads */

typedef struct {
    atomic_int waiting, round, asleep;
    struct {
        atomic_int of[2]; /* pieces taken in the phase that is on, and in the one after it */
    } __attribute__((aligned(64))) taken[GROUPS];
    int size, groups;
} Team;

typedef struct {
    Team *team;
    int id, phase;
} Thread;

INLINE void pause_briefly(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

/* Sleep until the round is over. A thread that only yielded would come back when the other's time slice ends, late by
   milliseconds; one that is woken comes back at once. */
static void sleep_through(Team *team, int round) {
#ifdef __linux__
    atomic_fetch_add(&team->asleep, 1);
    syscall(SYS_futex, &team->round, FUTEX_WAIT_PRIVATE, round, NULL, NULL, 0);
    atomic_fetch_sub(&team->asleep, 1);
#else
    (void)team, (void)round;
    sched_yield();
#endif
}

static void wake(Team *team) {
#ifdef __linux__
    if (atomic_load(&team->asleep)) syscall(SYS_futex, &team->round, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
#else
    (void)team;
#endif
}

static void forget(Thread *t) {
    for (int g = 0; g < t->team->groups; g++)
        atomic_store_explicit(&t->team->taken[g].of[t->phase & 1], 0, memory_order_relaxed);
}

/* All threads arrive before any goes on. */
static void barrier(Thread *t) {
    Team *team = t->team;
    if (team->size == 1) {
        forget(t);
        t->phase++;
        return;
    }
    int round = atomic_load_explicit(&team->round, memory_order_acquire);
    if (atomic_fetch_add_explicit(&team->waiting, 1, memory_order_acq_rel) == team->size - 1) {
        atomic_store_explicit(&team->waiting, 0, memory_order_relaxed);
        forget(t);
        atomic_store(&team->round, round + 1);
        wake(team);
    } else {
        for (int spins = 0; atomic_load_explicit(&team->round, memory_order_acquire) == round; spins++)
            if (spins < SPINS) pause_briefly(); else sleep_through(team, round);
    }
    t->phase++;
}

/* The next piece of the phase, or -1: a thread whose core is taken away does not hold up the others for long. */
INLINE int take(Thread *t, int pieces) {
    int groups = t->team->groups;
    for (int i = 0; i < groups; i++) {
        int g = (t->id + i) % groups, end = (int)((int64_t)pieces * (g + 1) / groups);
        int piece = (int)((int64_t)pieces * g / groups);
        piece += atomic_fetch_add_explicit(&t->team->taken[g].of[t->phase & 1], 1, memory_order_relaxed);
        if (piece < end) return piece;
    }
    return -1;
}
