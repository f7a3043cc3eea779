// Threads that go through the phases of one computation together.
//
//     pool.run([&](Phase& phase) {           // on every thread
//       phase.each(blocks, 1, [&](int begin, int end) { ... });   // each has a share, then helps the others
//       phase.each(rows, 4, ...);                                  // begins when all of the first are done
//     });
//
// Which thread computes an item is not deterministic, but it never changes the result. What an item throws comes out of
// `run` on the caller's thread, once the others are done.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace eyas {

class ThreadPool;

class Phase {
 public:
  Phase(ThreadPool& pool, int thread) : thread(thread), pool_(pool) {}

  // Calls function(begin, end) for parts of 0..count of at most `chunk` items, then waits for all threads.
  template <class Function>
  void each(int count, int chunk, const Function& function);
  // The items of 0..count that this thread begins with.
  int share_begin(int count) const { return share(count, thread); }
  int share_end(int count) const { return share(count, thread + 1); }

  const int thread;  // 0..threads-1

 private:
  int share(int count, long owner) const;  // where it starts; the next one starts where it ends

  ThreadPool& pool_;
  int index_ = 0;
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
  // Runs `work` on all threads; calls of several callers queue. A forked child starts its own threads.
  void run(const std::function<void(Phase&)>& work);

 private:
  friend class Phase;
  struct alignas(64) Counter {
    std::atomic<int> value{0};
  };

  void stop();
  void forget();
  void fail(std::exception_ptr error);
  void serve(int thread, std::uint64_t seen);
  void wait_for_all();
  static void relax(int& spins);

  const int threads_;
  std::vector<std::thread> workers_;
  long owner_;  // process that started them
  std::recursive_mutex queue_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::atomic<std::uint64_t> job_{0};
  std::atomic<bool> closing_{false};
  const std::function<void(Phase&)>* work_ = nullptr;
  std::exception_ptr error_;            // the first of a run
  std::unique_ptr<Counter[]> next_[2];  // (threads,) of the phase under way, and of the one after it
  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) std::atomic<std::uint64_t> round_{0};
};

inline int Phase::share(int count, long owner) const { return int(count * owner / pool_.threads_); }

template <class Function>
void Phase::each(int count, int chunk, const Function& function) {
  ThreadPool::Counter* next = pool_.next_[index_ % 2].get();
  const long threads = pool_.threads_;
  try {
    for (long k = 0; k < threads; ++k) {  // its own share first, which is contiguous in memory; then what others have left
      const long owner = (thread + k) % threads;
      const int first = share(count, owner), end = share(count, owner + 1);
      for (int at; (at = first + next[owner].value.fetch_add(chunk, std::memory_order_relaxed)) < end;)
        function(at, at + chunk < end ? at + chunk : end);
    }
  } catch (...) {  // out of memory: the others wait for this thread all the same
    pool_.fail(std::current_exception());
  }
  // No thread is in the next phase yet, so its counters may be reset: each thread resets its own.
  pool_.next_[(index_ + 1) % 2][std::size_t(thread)].value.store(0, std::memory_order_relaxed);
  ++index_;
  pool_.wait_for_all();
}

}  // namespace eyas
