#include "thread_pool.h"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <new>
#include <utility>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#include "numbers.h"

namespace eyas {

namespace {
using Clock = std::chrono::steady_clock;
using std::chrono::microseconds;
using std::chrono::milliseconds;

// How long a thread spins before it sleeps: the caller for parts that others have begun, the others for the next phase.
constexpr microseconds kPatience{50};
constexpr microseconds kPatienceAlone{1500};  // for the next phase, where no program wants the core: waking up takes time
constexpr milliseconds kMemory{100};          // how long a core counts as wanted

void relax() {
#if defined(__SSE2__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Waits without giving the core away; returns whether it holds at last.
template <class Condition>
bool spin(microseconds patience, const Condition& holds) {
  constexpr int kLooks = 32;  // between two looks at the clock
  if (holds()) return true;
  for (const auto end = Clock::now() + patience; Clock::now() < end;) {
    for (int i = 0; i < kLooks; ++i) {
      if (holds()) return true;
      relax();
    }
  }
  return holds();
}

// Whether another program has lately taken the core from this thread. Who spins there pays for it with time that it
// lacks when there is work.
class CoreWatch {
 public:
  bool is_wanted() {
#ifdef RUSAGE_THREAD
    rusage usage;
    if (getrusage(RUSAGE_THREAD, &usage) == 0 && usage.ru_nivcsw != losses_) {
      losses_ = usage.ru_nivcsw;
      until_ = Clock::now() + kMemory;
    }
#endif
    return Clock::now() < until_;
  }

 private:
  long losses_ = 0;
  Clock::time_point until_{};
};
}  // namespace

ThreadPool::ThreadPool(int threads)
    : threads_(std::max(1, threads)), owner_(long(getpid())), shares_(new Share[std::size_t(threads_)]) {}

ThreadPool::~ThreadPool() { stop(); }

std::unique_lock<std::recursive_mutex> ThreadPool::hold() {
  if (owner_ != long(getpid())) forget();
  return std::unique_lock<std::recursive_mutex>(queue_);
}

void ThreadPool::start() {
  const auto turn = hold();
  if (int(workers_.size()) == threads_ - 1) return;
  closing_ = false;
  try {
    for (int i = 1; i < threads_; ++i) {
      const std::uint32_t seen = shares_[std::size_t(i)].phase.load();
      workers_.emplace_back([this, i, seen] { serve(i, seen); });
    }
  } catch (...) {  // the system refuses one
    stop();
    throw;
  }
}

void ThreadPool::stop() {
  if (owner_ != long(getpid())) return forget();
  closing_ = true;
  for (int i = 1; i < threads_; ++i) {
    ++shares_[std::size_t(i)].phase;
    wake(shares_[std::size_t(i)]);
  }
  for (std::thread& worker : workers_) worker.join();
  workers_.clear();
}

// A forked child has none of its parent's threads, and its locks are in whatever state they were.
void ThreadPool::forget() {
  new std::vector<std::thread>(std::move(workers_));  // on purpose never freed: they cannot be joined
  workers_ = std::vector<std::thread>();
  shares_.release();  // neither can its locks
  shares_.reset(new Share[std::size_t(threads_)]);
  new (&queue_) std::recursive_mutex;
  new (&mutex_) std::mutex;
  new (&done_) std::condition_variable;
  waiting_ = false;
  error_ = nullptr;
  owner_ = long(getpid());
}

void ThreadPool::run(const std::function<void(Phase&)>& work) {
  const auto turn = hold();
  const KeepDenormals mode;
  start();
  Phase phase(*this);
  work(phase);
}

void ThreadPool::Work::compute(int part, int thread) const {
  const long begin = long(part) * chunk;
  call(function, int(begin), int(std::min<long>(begin + chunk, count)), thread);
}

// On the caller's thread.
void ThreadPool::compute(const Work& work) {
  const int parts = work.parts();
  if (threads_ == 1 || parts <= 1) {
    for (int part = 0; part < parts; ++part) work.compute(part, 0);
    return;
  }
  finished_.store(0, std::memory_order_relaxed);
  for (int i = threads_ - 1; i >= 0; --i) {
    Share& share = shares_[std::size_t(i)];
    const int begin = share_begin(parts, i);
    share.end = share_begin(parts, i + 1);
    if (begin == share.end) continue;
    share.work = work;
    share.left.store(share.end - begin, std::memory_order_release);
    if (i == 0) continue;
    ++share.phase;  // in one order with `asleep` for all threads: one of the two sees the other
    if (share.asleep) wake(share);
  }
  wait_for(parts - take_parts(0));
  if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
}

// Its own share first, which is contiguous in memory; then what others have left. Returns the number of parts.
//
// Of its own share a thread takes half of what is left at a time: taking costs as much as a small part. If it then loses its
// core, the phase has to wait for it in any case, and the parts that nobody else could take are soon done.
int ThreadPool::take_parts(int thread) {
  int taken = 0;
  for (int k = 0; k < threads_; ++k) {
    Share& share = shares_[std::size_t((thread + k) % threads_)];
    for (int left = share.left.load(std::memory_order_relaxed); left > 0;) {
      const int count = k == 0 ? (left + 1) / 2 : 1;
      if (!share.left.compare_exchange_weak(left, left - count, std::memory_order_acquire, std::memory_order_relaxed)) continue;
      for (int part = share.end - left, end = part + count; part < end; ++part) {
        try {
          share.work.compute(part, thread);
        } catch (...) {  // out of memory
          fail(std::current_exception());
        }
      }
      taken += count;
      left = share.left.load(std::memory_order_relaxed);
    }
  }
  return taken;
}

void ThreadPool::fail(std::exception_ptr error) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (!error_) error_ = std::move(error);
}

// The caller waits until others have done that many parts.
void ThreadPool::wait_for(int parts) {
  if (spin(kPatience, [&] { return finished_.load(std::memory_order_acquire) == parts; })) return;
  std::unique_lock<std::mutex> lock(mutex_);
  waiting_ = true;
  done_.wait(lock, [&] { return finished_.load() == parts; });
  waiting_ = false;
}

void ThreadPool::report(int parts) {
  finished_ += parts;
  if (!waiting_) return;
  std::unique_lock<std::mutex>(mutex_).unlock();  // the caller sleeps by now, or has yet to look
  done_.notify_one();
}

void ThreadPool::wake(Share& share) {
  std::unique_lock<std::mutex>(share.mutex).unlock();  // the thread sleeps by now, or has yet to look
  share.wake.notify_one();
}

// Another thread, from its start to its end.
void ThreadPool::serve(int thread, std::uint32_t seen) {
  const KeepDenormals mode;
  Share& own = shares_[std::size_t(thread)];
  const auto is_next = [&] { return own.phase != seen; };
  CoreWatch core;
  for (;;) {
    if (!spin(kPatience, is_next) && (core.is_wanted() || !spin(kPatienceAlone, is_next))) {
      std::unique_lock<std::mutex> lock(own.mutex);
      own.asleep = true;
      own.wake.wait(lock, is_next);
      own.asleep = false;
    }
    if (closing_) return;
    seen = own.phase;
    if (const int taken = take_parts(thread)) report(taken);
  }
}

}  // namespace eyas
