#include "quantise.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <system_error>
#include <thread>
#include <vector>

#include "half.h"
#include "numbers.h"

namespace eyas {

namespace {

constexpr int kSuperBlock = 256;      // weights of a K-quant's block
constexpr float kMostWeight = 65504;  // the largest half: no scale overflows

// ---- vectors: four floats on every machine, so that a sum has one order ----

using Four = float __attribute__((vector_size(16)));

inline Four all(float x) { return Four{x, x, x, x}; }
inline Four load(const float* p) {
  Four x;
  std::memcpy(&x, p, 16);
  return x;
}
inline float sum(const Four& x) { return (x[0] + x[1]) + (x[2] + x[3]); }
inline Four abs(const Four& x) { return x < 0.0f ? -x : x; }
inline Four clamp(const Four& x, float low, float high) {
  const Four above = x < low ? all(low) : x;
  return above > high ? all(high) : above;
}

// The nearest whole number, ties to even, up to 2^22; larger ones stay large.
constexpr float kRounder = 12582912.0f;  // 1.5 * 2^23
inline float nearest(float x) { return (x + kRounder) - kRounder; }
inline Four nearest(const Four& x) { return (x + kRounder) - kRounder; }

// ---- numbers of a block ----

// The number that is furthest from 0, with its sign; the first of equals.
inline float furthest(const float* x, int n) {
  float found = x[0];
  for (int i = 1; i < n; ++i) found = std::fabs(x[i]) > std::fabs(found) ? x[i] : found;
  return found;
}

inline float reciprocal(float x) {
  const float y = 1.0f / x;
  return x != 0.0f && std::isfinite(y) ? y : 0.0f;
}

inline void put_half(float x, std::uint8_t* out) {
  const std::uint16_t half = float_to_half(x);
  out[0] = std::uint8_t(half);
  out[1] = std::uint8_t(half >> 8);
}

inline float rounded_to_half(float x) { return half_to_float(float_to_half(x)); }

// The next half that is at least as far from 0, so that the largest integer times it reaches x.
inline float unit_half(float x) {
  const std::uint16_t half = float_to_half(x);
  return std::fabs(half_to_float(half)) < std::fabs(x) ? half_to_float(std::uint16_t(half + 1)) : half_to_float(half);
}

// Nibbles of 32 integers: the first 16 below, the last 16 above.
inline void put_nibbles(const std::uint8_t* q, std::uint8_t* out) {
  for (int i = 0; i < 16; ++i) out[i] = std::uint8_t((q[i] & 15) | q[i + 16] << 4);
}

// The same for 4 or 5 bits: before the nibbles stand the fifth bits, if there are any.
template <int kBits>
void put_integers(const std::uint8_t* q, std::uint8_t* out) {
  if (kBits == 5) {
    for (int byte = 0; byte < 4; ++byte) {
      out[byte] = 0;
      for (int bit = 0; bit < 8; ++bit) out[byte] |= std::uint8_t(q[8 * byte + bit] >> 4 << bit);
    }
    out += 4;
  }
  put_nibbles(q, out);
}

// ---- blocks of 32 weights with a rule and no search ----

void quantise_q8_0(const float* x, std::uint8_t* out) {
  const float scale = std::fabs(furthest(x, 32)) / 127.0f, inverse = reciprocal(scale);
  for (int i = 0; i < 32; ++i) {
    const float y = x[i] * inverse, size = std::fabs(y), whole = float(int(size));
    const int q = int(whole) + (size - whole >= 0.5f);  // halves away from 0
    out[2 + i] = std::uint8_t(y < 0 ? -q : q);
  }
  put_half(scale, out);
}

// Q4_0 and Q5_0: the weight furthest from 0 becomes the lowest integer.
template <int kBits>
void quantise_signed(const float* x, std::uint8_t* out) {
  constexpr int kHalf = 1 << (kBits - 1);
  const float scale = furthest(x, 32) / float(-kHalf), inverse = reciprocal(scale);
  std::uint8_t q[32];
  for (int i = 0; i < 32; ++i) q[i] = std::uint8_t(std::min(int(x[i] * inverse + (kHalf + 0.5f)), 2 * kHalf - 1));
  put_integers<kBits>(q, out + 2);
  put_half(scale, out);
}

// Q4_1 and Q5_1: integers count up from the lowest weight.
template <int kBits>
void quantise_offset(const float* x, std::uint8_t* out) {
  constexpr int kTop = (1 << kBits) - 1;
  float low = x[0], high = x[0];
  for (int i = 1; i < 32; ++i) {
    low = x[i] < low ? x[i] : low;
    high = x[i] > high ? x[i] : high;
  }
  const float scale = (high - low) / float(kTop), inverse = reciprocal(scale);
  std::uint8_t q[32];
  for (int i = 0; i < 32; ++i) q[i] = std::uint8_t(std::min(int((x[i] - low) * inverse + 0.5f), kTop));
  put_integers<kBits>(q, out + 4);
  put_half(scale, out);
  put_half(low, out + 2);
}

// OCP microscaling: a power of two, and numbers of 4 bits (1 of the sign, 2 of the exponent, 1 of the fraction).
void quantise_mxfp4(const float* x, std::uint8_t* out) {
  constexpr float kBetween[] = {0.5f, 1.5f, 2.5f, 3.5f, 5.0f, 7.0f, 10.0f};  // of 0, 1, 2, 3, 4, 6, 8, 12
  const float top = std::fabs(furthest(x, 32));
  std::uint32_t bits;
  std::memcpy(&bits, &top, 4);
  const std::uint32_t exponent = std::max(bits >> 23, 2u) - 2;  // the largest weight lies in 8..16 times `scale`
  const std::uint32_t scale_bits = exponent < 2 ? 0x00200000u << exponent : (exponent - 1) << 23;
  float scale;
  std::memcpy(&scale, &scale_bits, 4);
  std::uint8_t q[32];
  for (int i = 0; i < 32; ++i) {
    const float size = std::fabs(x[i]) / scale;
    int index = 0;
    for (const float between : kBetween) index += size > between;
    q[i] = std::uint8_t(index > 0 && x[i] < 0 ? index + 8 : index);
  }
  out[0] = std::uint8_t(exponent);
  put_nibbles(q, out + 1);
}

// ---- a factor for weights around 0 ----

// Levels that integers stand for: all whole numbers of some bits ...
template <int kBits>
struct WholeLevels {
  static constexpr float kLowest = -float(1 << (kBits - 1));
  static constexpr float kStep = 0.1f;  // of the search
  static constexpr int kSteps = 9;      // to either side

  static Four level(const Four& x) { return clamp(nearest(x), kLowest, -kLowest - 1.0f); }
  static Four index(const Four& x) { return level(x) - kLowest; }
};

// ... or those of IQ4, which lie closer together around 0.
struct NonlinearLevels {
  static constexpr float kLevels[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
  static constexpr float kLowest = kLevels[0];
  static constexpr float kStep = 1.0f;
  static constexpr int kSteps = 7;

  static Four level(const Four& x) {
    Four found = all(kLevels[0]);
    for (int i = 1; i < 16; ++i) found += reaches(x, i) ? all(kLevels[i] - kLevels[i - 1]) : Four{};
    return found;
  }
  static Four index(const Four& x) {
    Four found{};
    for (int i = 1; i < 16; ++i) found += reaches(x, i) ? all(1.0f) : Four{};
    return found;
  }

 private:
  static auto reaches(const Four& x, int i) -> decltype(x < x) { return x >= all((kLevels[i - 1] + kLevels[i]) / 2.0f); }
};

// The factor of levels that fits N weights best: errors count by the weight's square. Tried are those by which the weight
// furthest from 0 becomes about the lowest level, each with the factor that is best for the levels chosen by it.
template <class Levels, int N>
float fit_factor(const float* x) {
  const float unit = furthest(x, N);
  if (unit == 0.0f) return 0.0f;
  Four y[N / 4];
  for (int i = 0; i < N / 4; ++i) y[i] = load(x + 4 * i) / all(unit);
  float best = 0.0f, factor = 0.0f;
  for (int step = -Levels::kSteps; step <= Levels::kSteps; ++step) {
    const float inverse = Levels::kLowest - Levels::kStep * float(step);
    Four products{}, squares{};
    for (const Four& v : y) {
      const Four level = Levels::level(v * inverse), weighted = v * v * level;
      products += weighted * v;
      squares += weighted * level;
    }
    const float product = sum(products), square = sum(squares);
    if (square > 0.0f && product * product > best * square) {
      factor = product / square;
      best = product * factor;
    }
  }
  return factor * unit;
}

template <class Levels, int N>
void put_indices(const float* x, float factor, std::uint8_t* q) {
  for (int i = 0; i < N; i += 4) {
    const Four index = Levels::index(factor == 0.0f ? Four{} : load(x + i) / all(factor));
    for (int j = 0; j < 4; ++j) q[i + j] = std::uint8_t(index[j]);
  }
}

// A super-block in parts of N weights: the factor of a part is `scale` (a half) times one of its integers, which start at
// kLowest and are stored from 0 on.
template <class Levels, int N, int kLowest>
struct Factors {
  static constexpr int kParts = kSuperBlock / N;
  float scale;
  std::uint8_t integer[kParts];
  std::uint8_t q[kSuperBlock];

  explicit Factors(const float* x) {
    float factors[kParts];
    for (int part = 0; part < kParts; ++part) factors[part] = fit_factor<Levels, N>(x + part * N);
    scale = unit_half(furthest(factors, kParts) / float(kLowest));
    for (int part = 0; part < kParts; ++part) {
      const float whole = scale == 0.0f ? 0.0f : nearest(factors[part] / scale);
      const int level = int(std::clamp(whole, float(kLowest), float(-kLowest - 1)));
      integer[part] = std::uint8_t(level - kLowest);
      put_indices<Levels, N>(x + part * N, scale * float(level), q + part * N);
    }
  }
};

// ---- a line for weights that lie anywhere ----

// A weight is about scale * q - offset, for a whole q >= 0 and an offset >= 0.
struct Line {
  float scale = 0.0f;
  float offset = 0.0f;
};

// How lines are searched: the weights' range is cut into kTop steps, and into numbers of steps around that: from kFirst tenths
// more than kTop on, in tenths. Errors are squared unless kAbsolute is set.
struct Search2 {
  static constexpr int kTop = 3, kFirst = -5, kSteps = 15;
  static constexpr bool kAbsolute = true;
};
struct Search4 {
  static constexpr int kTop = 15, kFirst = -10, kSteps = 20;
  static constexpr bool kAbsolute = false;
};
struct Search5 {
  static constexpr int kTop = 31, kFirst = -5, kSteps = 15;
  static constexpr bool kAbsolute = false;
};

// N weights over their range, and how much an error counts in each: its size, and where errors are squared also the root mean
// square of all N.
template <class Search, int N>
struct LineFit {
  float base;  // the lowest number, or 0
  Four y[N / 4], weight[N / 4], q[N / 4];

  // Integers for a step of 1 / inverse between them.
  void choose(float inverse) {
    for (int i = 0; i < N / 4; ++i) q[i] = clamp(nearest((y[i] - base) * inverse), 0.0f, float(Search::kTop));
  }

  float error(const Line& line) const {
    Four total{};
    for (int i = 0; i < N / 4; ++i) {
      const Four off = q[i] * line.scale - line.offset - y[i];
      total += weight[i] * (Search::kAbsolute ? abs(off) : off * off);
    }
    return sum(total);
  }

  // Least squares for the chosen integers; false where they are all equal.
  bool solve(Line& line) const {
    Four w{}, wx{}, wq{}, wqq{}, wqx{};
    for (int i = 0; i < N / 4; ++i) {
      const Four weighted = weight[i] * q[i];
      w += weight[i];
      wx += weight[i] * y[i];
      wq += weighted;
      wqq += weighted * q[i];
      wqx += weighted * y[i];
    }
    const float s = sum(w), x = sum(wx), l = sum(wq), ll = sum(wqq), lx = sum(wqx);
    const float determinant = s * ll - l * l;
    if (!(determinant > 0.0f)) return false;
    line.scale = (s * lx - x * l) / determinant;
    line.offset = (l * lx - ll * x) / determinant;
    if (line.offset < 0.0f) line = {lx / ll, 0.0f};
    return true;
  }
};

template <class Search, int N>
Line fit_line(const float* x) {
  float low = 0.0f, high = x[0];
  for (int i = 0; i < N; ++i) {
    low = x[i] < low ? x[i] : low;
    high = x[i] > high ? x[i] : high;
  }
  const float range = high - low;
  if (!(range > 0.0f)) return {0.0f, -low};
  LineFit<Search, N> fit;
  fit.base = low / range;
  Four squares{};
  for (int i = 0; i < N / 4; ++i) {
    fit.y[i] = load(x + 4 * i) / all(range);
    squares += fit.y[i] * fit.y[i];
  }
  const float more = Search::kAbsolute ? 0.0f : std::sqrt(sum(squares) / float(N));
  for (int i = 0; i < N / 4; ++i) fit.weight[i] = abs(fit.y[i]) + more;

  Line best{1.0f / float(Search::kTop), -fit.base};
  fit.choose(float(Search::kTop));
  float least = fit.error(best);
  for (int step = 0; step <= Search::kSteps; ++step) {
    Line line;
    fit.choose(float(Search::kTop) + 0.1f * float(Search::kFirst + step));
    if (!fit.solve(line)) continue;
    const float error = fit.error(line);
    if (error < least) {
      least = error;
      best = line;
    }
  }
  return {best.scale * range, best.offset * range};
}

// A super-block in parts of N weights: the line of a part is (scale, offset), two halves, times two of its integers.
template <class Search, int N, int kMost>
struct Lines {
  static constexpr int kParts = kSuperBlock / N;
  Line unit;
  std::uint8_t scale[kParts], offset[kParts];
  std::uint8_t q[kSuperBlock];

  explicit Lines(const float* x) {
    Line lines[kParts], most;
    for (int part = 0; part < kParts; ++part) {
      lines[part] = fit_line<Search, N>(x + part * N);
      most.scale = std::max(most.scale, lines[part].scale);
      most.offset = std::max(most.offset, lines[part].offset);
    }
    unit = {unit_half(most.scale / float(kMost)), unit_half(most.offset / float(kMost))};
    for (int part = 0; part < kParts; ++part) {
      scale[part] = whole(lines[part].scale, unit.scale);
      offset[part] = whole(lines[part].offset, unit.offset);
      const float* weights = x + part * N;
      const float step = unit.scale * float(scale[part]), low = unit.offset * float(offset[part]);
      for (int i = 0; i < N; i += 4) {
        const Four index = step == 0.0f ? Four{} : nearest((load(weights + i) + low) / all(step));
        const Four inside = clamp(index, 0.0f, float(Search::kTop));
        for (int j = 0; j < 4; ++j) q[part * N + i + j] = std::uint8_t(inside[j]);
      }
    }
  }

  void put_units(std::uint8_t* out) const {
    put_half(unit.scale, out);
    put_half(unit.offset, out + 2);
  }

 private:
  static std::uint8_t whole(float value, float of) {
    return of == 0.0f ? 0 : std::uint8_t(std::clamp(nearest(value / of), 0.0f, float(kMost)));
  }
};

// ---- layouts of super-blocks ----

// 2 bits of 256 integers: in each half of 128, byte i holds those of i, 32 + i, 64 + i and 96 + i.
void put_pairs(const std::uint8_t* q, int shift, std::uint8_t* out) {
  for (int half = 0; half < 2; ++half)
    for (int i = 0; i < 32; ++i) {
      int byte = 0;
      for (int j = 0; j < 4; ++j) byte |= (q[128 * half + 32 * j + i] >> shift & 3) << (2 * j);
      out[32 * half + i] = std::uint8_t(byte);
    }
}

// 4 bits of 256 integers: byte i of each 32 holds integer i of one part of 32 and of the next one.
void put_part_nibbles(const std::uint8_t* q, std::uint8_t* out) {
  for (int pair = 0; pair < 4; ++pair)
    for (int i = 0; i < 32; ++i) out[32 * pair + i] = std::uint8_t((q[64 * pair + i] & 15) | (q[64 * pair + 32 + i] & 15) << 4);
}

// 8 scales and 8 offsets of 6 bits each in 12 bytes: the last four of each are cut into 4 and 2 bits.
void put_six_bits(const std::uint8_t* scale, const std::uint8_t* offset, std::uint8_t* out) {
  for (int i = 0; i < 4; ++i) {
    out[i] = std::uint8_t(scale[i] | scale[i + 4] >> 4 << 6);
    out[i + 4] = std::uint8_t(offset[i] | offset[i + 4] >> 4 << 6);
    out[i + 8] = std::uint8_t((scale[i + 4] & 15) | (offset[i + 4] & 15) << 4);
  }
}

void quantise_q2_k(const float* x, std::uint8_t* out) {
  const Lines<Search2, 16, 15> lines(x);
  for (int i = 0; i < 16; ++i) out[i] = std::uint8_t(lines.scale[i] | lines.offset[i] << 4);
  put_pairs(lines.q, 0, out + 16);
  lines.put_units(out + 80);
}

void quantise_q3_k(const float* x, std::uint8_t* out) {
  const Factors<WholeLevels<3>, 16, -32> factors(x);
  for (int i = 0; i < 32; ++i) {
    int byte = 0;
    for (int part = 0; part < 8; ++part) byte |= factors.q[32 * part + i] >> 2 << part;
    out[i] = std::uint8_t(byte);
  }
  put_pairs(factors.q, 0, out + 32);
  const std::uint8_t* scale = factors.integer;
  std::uint8_t* scales = out + 96;
  for (int i = 0; i < 8; ++i) scales[i] = std::uint8_t((scale[i] & 15) | (scale[i + 8] & 15) << 4);
  for (int i = 0; i < 4; ++i) {
    int byte = 0;
    for (int j = 0; j < 4; ++j) byte |= scale[4 * j + i] >> 4 << (2 * j);
    scales[8 + i] = std::uint8_t(byte);
  }
  put_half(factors.scale, out + 108);
}

void quantise_q4_k(const float* x, std::uint8_t* out) {
  const Lines<Search4, 32, 63> lines(x);
  put_six_bits(lines.scale, lines.offset, out + 4);
  put_part_nibbles(lines.q, out + 16);
  lines.put_units(out);
}

void quantise_q5_k(const float* x, std::uint8_t* out) {
  const Lines<Search5, 32, 63> lines(x);
  put_six_bits(lines.scale, lines.offset, out + 4);
  for (int i = 0; i < 32; ++i) {
    int byte = 0;
    for (int part = 0; part < 8; ++part) byte |= lines.q[32 * part + i] >> 4 << part;
    out[16 + i] = std::uint8_t(byte);
  }
  put_part_nibbles(lines.q, out + 48);
  lines.put_units(out);
}

void quantise_q6_k(const float* x, std::uint8_t* out) {
  const Factors<WholeLevels<6>, 16, -128> factors(x);
  for (int half = 0; half < 2; ++half) {
    const std::uint8_t* q = factors.q + 128 * half;
    for (int i = 0; i < 64; ++i) out[64 * half + i] = std::uint8_t((q[i] & 15) | (q[i + 64] & 15) << 4);
  }
  put_pairs(factors.q, 4, out + 128);
  for (int i = 0; i < 16; ++i) out[192 + i] = std::uint8_t(int(factors.integer[i]) - 128);
  put_half(factors.scale, out + 208);
}

void quantise_iq4_nl(const float* x, std::uint8_t* out) {
  const float factor = rounded_to_half(fit_factor<NonlinearLevels, 32>(x));
  std::uint8_t q[32];
  put_indices<NonlinearLevels, 32>(x, factor, q);
  put_nibbles(q, out + 2);
  put_half(factor, out);
}

void quantise_iq4_xs(const float* x, std::uint8_t* out) {
  const Factors<NonlinearLevels, 32, -32> factors(x);
  int high = 0;
  for (int part = 0; part < 8; ++part) high |= factors.integer[part] >> 4 << (2 * part);
  out[2] = std::uint8_t(high);
  out[3] = std::uint8_t(high >> 8);
  for (int i = 0; i < 4; ++i) out[4 + i] = std::uint8_t((factors.integer[2 * i] & 15) | (factors.integer[2 * i + 1] & 15) << 4);
  for (int part = 0; part < 8; ++part) put_nibbles(factors.q + 32 * part, out + 8 + 16 * part);
  put_half(factors.scale, out);
}

constexpr BlockQuantiser kTable[] = {
    {"Q4_0", 32, 18, quantise_signed<4>}, {"Q4_1", 32, 20, quantise_offset<4>}, {"Q5_0", 32, 22, quantise_signed<5>},
    {"Q5_1", 32, 24, quantise_offset<5>}, {"Q8_0", 32, 34, quantise_q8_0},      {"Q2_K", 256, 84, quantise_q2_k},
    {"Q3_K", 256, 110, quantise_q3_k},    {"Q4_K", 256, 144, quantise_q4_k},    {"Q5_K", 256, 176, quantise_q5_k},
    {"Q6_K", 256, 210, quantise_q6_k},    {"IQ4_NL", 32, 18, quantise_iq4_nl},  {"IQ4_XS", 256, 136, quantise_iq4_xs},
    {"MXFP4", 32, 17, quantise_mxfp4},
};

// One row; returns the number of weights that the format cannot hold.
std::size_t quantise_row(const float* row, int k, const BlockQuantiser& format, std::uint8_t* out) {
  std::size_t bad = 0;
  for (int i = 0; i < k; ++i) bad += !(std::fabs(row[i]) <= kMostWeight);
  if (bad == 0)
    for (int i = 0; i < k; i += format.block, out += format.bytes) format.quantise(row + i, out);
  return bad;
}

}  // namespace

const BlockQuantiser* find_block_quantiser(const char* name) {
  for (const BlockQuantiser& format : kTable)
    if (std::strcmp(format.name, name) == 0) return &format;
  return nullptr;
}

std::size_t quantise_rows(const WeightRows& rows, int n, int k, const BlockQuantiser& format, std::uint8_t* out, int threads) {
  const std::size_t row_bytes = std::size_t(k / format.block) * std::size_t(format.bytes);
  const int workers = std::max(1, std::min(threads, n));
  std::vector<float> memory(std::size_t(workers) * std::size_t(k));
  std::atomic<int> next{0};
  std::atomic<std::size_t> bad{0};
  const auto work = [&](int worker) {
    const KeepDenormals mode;
    float* row = memory.data() + std::size_t(worker) * std::size_t(k);
    for (int r; (r = next.fetch_add(1)) < n;) {
      rows.read(r, k, row);
      bad += quantise_row(row, k, format, out + std::size_t(r) * row_bytes);
    }
  };
  std::vector<std::thread> others;
  others.reserve(std::size_t(workers));
  try {
    for (int worker = 1; worker < workers; ++worker) others.emplace_back(work, worker);
  } catch (const std::system_error&) {  // the system has no more threads: fewer of them do it
  }
  work(0);
  for (std::thread& other : others) other.join();
  return bad;
}

}  // namespace eyas
