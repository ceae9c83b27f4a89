#include "threads.h"

#include <pthread.h>
#include <sched.h>

#include <condition_variable>
#include <mutex>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

namespace quintet {
namespace {

constexpr int SPINS = 4000;  // some tens of microseconds: the time between two steps of a decoder

inline void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

// Waits until a word differs from `old`, first at full speed, then giving way to whoever else wants the processor.
void wait_for_change(const int64_t &word, int64_t old) {
    for (int spin = 0; __atomic_load_n(&word, __ATOMIC_ACQUIRE) == old; spin++) {
        if (spin < SPINS) pause();
        else sched_yield();
    }
}

struct Pool {
    Team team;
    std::vector<std::thread> workers;
    std::mutex mutex;
    std::condition_variable wake;
    int64_t call = 0;  // the number of the call at work; changed under the mutex, watched without
    bool closing = false;
    void (*body)(void *, Team &, int64_t) = nullptr;
    void *context = nullptr;

    explicit Pool(int64_t size) {
        team.size = size;
        try {
            for (int64_t member = 1; member < size; member++) workers.emplace_back([this, member] { work(member); });
        } catch (const std::system_error &error) {
            close();
            throw std::runtime_error("cannot start " + std::to_string(size) + " threads (" + error.what() +
                                     "): torch.set_num_threads(1) does without");
        }
    }

    ~Pool() { close(); }

    void close() {
        {
            std::lock_guard lock(mutex);
            closing = true;
            __atomic_fetch_add(&call, 1, __ATOMIC_RELEASE);
        }
        wake.notify_all();
        for (auto &worker : workers) worker.join();
        workers.clear();
    }

    void run(void (*new_body)(void *, Team &, int64_t), void *new_context) {
        {
            std::lock_guard lock(mutex);
            body = new_body;
            context = new_context;
            __atomic_fetch_add(&call, 1, __ATOMIC_RELEASE);
        }
        wake.notify_all();
        body(context, team, 0);
        team.meet();
    }

    void work(int64_t member) {
        for (int64_t seen = 0;;) {
            for (int spin = 0; spin < SPINS && __atomic_load_n(&call, __ATOMIC_ACQUIRE) == seen; spin++) pause();
            {
                std::unique_lock lock(mutex);
                wake.wait(lock, [&] { return call != seen; });
                seen = call;
                if (closing) return;
            }
            body(context, team, member);
            team.meet();
        }
    }
};

std::mutex one_call;
Pool *pool = nullptr;
OpenMP openmp{};
int64_t wanted = 1;

void run_on_openmp(int64_t members, void (*body)(void *, Team &, int64_t), void *context) {
    struct Call {
        void (*body)(void *, Team &, int64_t);
        void *context;
        Team team;
    } call{body, context, {}};
    auto work = [](void *data) {
        Call &call = *static_cast<Call *>(data);
        // It may give fewer threads than it was asked for; each writes the same number before it meets the others.
        __atomic_store_n(&call.team.size, openmp.size(), __ATOMIC_RELAXED);
        call.body(call.context, call.team, openmp.member());
    };
    openmp.parallel(work, &call, static_cast<unsigned>(members), 0);
}

// A child of fork has the pool's memory but not its threads, so it forgets the pool (and that little memory).
void before_fork() { one_call.lock(); }
void after_fork_in_parent() { one_call.unlock(); }
void after_fork_in_child() {
    pool = nullptr;
    openmp = {};
    one_call.unlock();
}

[[maybe_unused]] const int registered = pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);

}  // namespace

void Team::meet() {
    int64_t here = __atomic_load_n(&round, __ATOMIC_RELAXED);
    if (__atomic_add_fetch(&arrived, 1, __ATOMIC_ACQ_REL) == size) {
        __atomic_store_n(&next, 0, __ATOMIC_RELAXED);
        __atomic_store_n(&arrived, 0, __ATOMIC_RELAXED);
        __atomic_store_n(&round, here + 1, __ATOMIC_RELEASE);
        return;
    }
    wait_for_change(round, here);
}

void run_together(int64_t members, void (*body)(void *, Team &, int64_t), void *context) {
    std::lock_guard lock(one_call);
    if (openmp.parallel != nullptr) return run_on_openmp(members, body, context);
    if (pool == nullptr || pool->team.size != members) {
        delete pool;
        pool = nullptr;
        pool = new Pool(members);
    }
    pool->run(body, context);
}

void use_openmp(const OpenMP &functions) {
    std::lock_guard lock(one_call);
    openmp = functions;
}

void set_threads(int64_t threads) {
    std::lock_guard lock(one_call);
    wanted = threads < 1 ? 1 : threads;
}

int64_t threads() {
    std::lock_guard lock(one_call);
    return wanted;
}

}  // namespace quintet
