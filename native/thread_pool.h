// Threads that compute the phases of a computation together.
//
//     pool.run([&](Phase& phase) {                               // on the caller's thread
//       phase.each(blocks, 1, [&](int begin, int end) { ... });  // on all threads: each has a share, then helps the others
//       phase.each(rows, 4, [&](int begin, int end, int thread) { ... });  // begins when all of the first are done
//     });
//
// The caller's thread publishes a phase, takes parts of it as the others do, and goes on when all parts are done. It waits
// for parts that have been begun, never for a thread: one that has lost its core to another program comes back to
// whatever phase there is by then. Which thread computes a part is not deterministic, but it never changes the result. What
// a part throws comes out of `each`, once the other parts are done.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <type_traits>
#include <vector>

namespace eyas {

class ThreadPool;

class Phase {
 public:
  explicit Phase(ThreadPool& pool) : pool_(pool) {}

  // Calls function(begin, end), or function(begin, end, thread), for parts of 0..count of at most `chunk` items; returns
  // when all are done.
  template <class Function>
  void each(int count, int chunk, const Function& function);
  // The items of 0..count that a thread begins with, where the chunk is 1.
  int share_begin(int count, int thread) const;
  int share_end(int count, int thread) const { return share_begin(count, thread + 1); }

 private:
  ThreadPool& pool_;
};

class ThreadPool {
 public:
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return threads_; }
  // Keeps other callers waiting, between runs too: networks of one pool share memory.
  std::unique_lock<std::recursive_mutex> hold();
  // Starts the threads if they are not running, so that failing to start them is an error before any work.
  void start();
  // Runs `work`, whose phases all threads compute; calls of several callers queue. A forked child starts its own threads.
  void run(const std::function<void(Phase&)>& work);

 private:
  friend class Phase;
  using Clock = std::chrono::steady_clock;

  struct Work {  // of a phase
    void (*call)(const void* function, int begin, int end, int thread) = nullptr;
    const void* function = nullptr;
    int count = 0;
    int chunk = 1;

    int parts() const { return int((long(count) + chunk - 1) / chunk); }
    void compute(int part, int thread) const;
  };

  // Parts of a phase that a thread begins with. Who takes one may read the rest until it reports the part as done, since
  // only then can another phase be published; a number of the phase is not needed.
  struct alignas(64) Share {
    std::atomic<int> left{0};             // parts that no thread has taken
    std::atomic<std::uint32_t> phase{0};  // counts the phases with parts for this thread
    std::atomic<bool> asleep{false};
    int end = 0;  // behind the last part
    Work work;
    std::mutex mutex;  // of a thread that goes to sleep
    std::condition_variable wake;
  };

  int share_begin(int count, int thread) const { return int(long(count) * thread / threads_); }
  void compute(const Work& work);
  int take_parts(int thread);
  void wait_for(int parts);
  void serve(int thread, std::uint32_t seen);
  void wake(Share& share);
  void report(int parts);
  void fail(std::exception_ptr error);
  void stop();
  void forget();

  const int threads_;
  std::vector<std::thread> workers_;
  long owner_;  // process that started them
  std::recursive_mutex queue_;
  std::unique_ptr<Share[]> shares_;  // (threads,), the caller's first
  std::atomic<bool> closing_{false};
  std::mutex mutex_;  // of what follows
  std::condition_variable done_;
  std::exception_ptr error_;                  // the first of a phase
  alignas(64) std::atomic<int> finished_{0};  // parts of the phase that other threads have done
  std::atomic<bool> waiting_{false};          // the caller sleeps until there are enough
};

inline int Phase::share_begin(int count, int thread) const { return pool_.share_begin(count, thread); }

template <class Function>
void Phase::each(int count, int chunk, const Function& function) {
  const auto call = [](const void* erased, int begin, int end, [[maybe_unused]] int thread) {
    const Function& own = *static_cast<const Function*>(erased);
    if constexpr (std::is_invocable_v<const Function&, int, int, int>) {
      own(begin, end, thread);
    } else {
      own(begin, end);
    }
  };
  pool_.compute({call, &function, count, chunk});
}

}  // namespace eyas
