#include "thread_pool.h"

#include <unistd.h>

#include <new>
#include <utility>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#include "numbers.h"

namespace eyas {

namespace {
constexpr int kSpins = 20'000;       // of a pause each, well below a millisecond: phases are short
constexpr int kIdleSpins = 100'000;  // between two calls, before a thread goes to sleep
}  // namespace

ThreadPool::ThreadPool(int threads) : threads_(threads < 1 ? 1 : threads), owner_(long(getpid())) {
  for (auto& counters : next_) counters.reset(new Counter[std::size_t(threads_)]);
}

ThreadPool::~ThreadPool() { stop(); }

std::unique_lock<std::recursive_mutex> ThreadPool::hold() {
  if (owner_ != long(getpid())) forget();
  return std::unique_lock<std::recursive_mutex>(queue_);
}

void ThreadPool::start() {
  const auto turn = hold();
  if (int(workers_.size()) == threads_ - 1) return;
  closing_ = false;
  arrived_ = 0;
  const std::uint64_t seen = job_.load();
  try {
    for (int i = 1; i < threads_; ++i) workers_.emplace_back([this, i, seen] { serve(i, seen); });
  } catch (...) {  // the system refuses one: those that run would wait for it for ever
    stop();
    throw;
  }
}

void ThreadPool::stop() {
  if (owner_ != long(getpid())) return forget();
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    closing_ = true;
  }
  wake_.notify_all();
  for (std::thread& worker : workers_) worker.join();
  workers_.clear();
}

// A forked child has none of its parent's threads, and its locks are in whatever state they were.
void ThreadPool::forget() {
  new std::vector<std::thread>(std::move(workers_));  // on purpose never freed: they cannot be joined
  workers_ = std::vector<std::thread>();
  new (&queue_) std::recursive_mutex;
  new (&mutex_) std::mutex;
  new (&wake_) std::condition_variable;
  owner_ = long(getpid());
}

void ThreadPool::fail(std::exception_ptr error) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (!error_) error_ = std::move(error);
}

void ThreadPool::relax(int& spins) {
  if (++spins < kSpins) {
#if defined(__SSE2__)
    _mm_pause();
#endif
  } else {
    std::this_thread::yield();  // another process has the core that this thread needs
  }
}

void ThreadPool::run(const std::function<void(Phase&)>& work) {
  const auto turn = hold();
  const KeepDenormals mode;
  start();
  for (int i = 0; i < threads_; ++i) next_[0][std::size_t(i)].value.store(0);
  work_ = &work;
  if (threads_ > 1) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      job_.fetch_add(1);
    }
    wake_.notify_all();
  }
  Phase phase(*this, 0);
  work(phase);
  wait_for_all();  // `work` must outlive every thread's last look at it
  if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
}

void ThreadPool::serve(int thread, std::uint64_t seen) {
  const KeepDenormals mode;
  for (;;) {
    for (int spins = 0; spins < kIdleSpins && job_.load(std::memory_order_acquire) == seen; ++spins) {
#if defined(__SSE2__)
      _mm_pause();
#endif
    }
    if (job_.load(std::memory_order_acquire) == seen) {
      std::unique_lock<std::mutex> lock(mutex_);
      wake_.wait(lock, [&] { return closing_ || job_.load() != seen; });
    }
    if (closing_) return;
    ++seen;
    Phase phase(*this, thread);
    (*work_)(phase);
    wait_for_all();
  }
}

void ThreadPool::wait_for_all() {
  if (threads_ == 1) return;
  const std::uint64_t round = round_.load(std::memory_order_acquire);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == threads_) {
    arrived_.store(0, std::memory_order_relaxed);
    round_.store(round + 1, std::memory_order_release);
    return;
  }
  for (int spins = 0; round_.load(std::memory_order_acquire) == round;) relax(spins);
}

}  // namespace eyas
