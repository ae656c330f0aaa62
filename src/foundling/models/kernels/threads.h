/* A team of threads inside one call: a barrier that spins (a step has hundreds) and work handed out in small pieces. */
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

#define SPINS 1000 /* then let others run: the machine may have fewer free cores than the team has threads */

typedef struct {
    atomic_int waiting, round, asleep;
    atomic_int next[2]; /* next piece of the phase that is on, and of the one after it */
    int size;
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

/* All threads arrive before any goes on. */
static void barrier(Thread *t) {
    Team *team = t->team;
    if (team->size == 1) {
        atomic_store_explicit(&team->next[t->phase & 1], 0, memory_order_relaxed);
        t->phase++;
        return;
    }
    int round = atomic_load_explicit(&team->round, memory_order_acquire);
    if (atomic_fetch_add_explicit(&team->waiting, 1, memory_order_acq_rel) == team->size - 1) {
        atomic_store_explicit(&team->waiting, 0, memory_order_relaxed);
        atomic_store_explicit(&team->next[t->phase & 1], 0, memory_order_relaxed);
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
    int piece = atomic_fetch_add_explicit(&t->team->next[t->phase & 1], 1, memory_order_relaxed);
    return piece < pieces ? piece : -1;
}
