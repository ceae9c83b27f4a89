// Threads that go through the same code together and meet at barriers.
#pragma once

#include <cstdint>

namespace quintet {

// One call's meeting point. All members go through the same phases; a phase's items are taken one by one by whoever is
// free. The words lie on cache lines of their own.
struct Team {
    int64_t size = 1;
    alignas(64) int64_t next = 0;
    alignas(64) int64_t arrived = 0;
    alignas(64) int64_t round = 0;

    // The number of an item that nobody has taken yet.
    int64_t take() { return __atomic_fetch_add(&next, 1, __ATOMIC_RELAXED); }

    // Returns when all members have come here, and the items are numbered from 0 again.
    void meet();
};

// A phase: calls work(i) for every i below `count`, each once, and waits until all are done.
template <class Work>
inline void share(Team &team, int64_t count, const Work &work) {
    for (int64_t item = team.take(); item < count; item = team.take()) work(item);
    team.meet();
}

// Runs body(context, team, member) on `members` threads and returns when it has returned on each. One call at a time:
// others wait. Fork is safe: a child has threads of its own. Throws std::runtime_error if a thread cannot start.
void run_together(int64_t members, void (*body)(void *context, Team &team, int64_t member), void *context);

// From now on, OpenMP's threads instead of the pool's, through these functions of its library: GOMP_parallel,
// omp_get_thread_num, omp_get_num_threads. A child of fork goes back to a pool, since OpenMP does not survive there.
struct OpenMP {
    void (*parallel)(void (*)(void *), void *, unsigned threads, unsigned flags);
    int (*member)();
    int (*size)();
};
void use_openmp(const OpenMP &);

// How many a call is to take. Others may change it at any time: who needs it twice asks once.
void set_threads(int64_t threads);
int64_t threads();

}  // namespace quintet
