#include "buffers.h"

#include <cstring>
#include <new>
#include <utility>

namespace eyas {

void Buffer::reserve(std::size_t bytes) {
  if (bytes <= bytes_) return;
  bytes = (bytes + 4095) / 4096 * 4096;
  void* memory = std::aligned_alloc(64, bytes);
  if (!memory) throw std::bad_alloc();
  std::memset(memory, 0, bytes);
  memory_.reset(static_cast<std::uint8_t*>(memory));
  bytes_ = bytes;
}

void ActivationBuffer::reserve(const Kernels& kernels, const MatrixGroup& matrices, int tokens) {
  for (int part = 0; part < matrices.count; ++part) {
    const Activations shape = view(kernels, matrices.parts[part]);
    Memory& memory = of_format_[int(shape.format)];
    memory.data.reserve(shape.stride * std::size_t(tokens));
    if (!shape.scales) continue;
    const std::size_t scales = std::size_t(tokens) * std::size_t(shape.scales);
    memory.scale.reserve(sizeof(float) * scales);
    memory.sum.reserve(2 * sizeof(std::int32_t) * scales);
    memory.scaled_sum.reserve(sizeof(float) * scales);
  }
}

Activations ActivationBuffer::view(const Kernels& kernels, const PackedMatrix& w) const {
  Activations x;
  x.format = w.format->activations;
  const Memory& memory = of_format_[int(x.format)];
  const int inputs = x.format == ActivationFormat::Int8 ? kScaled : kRunInputs;  // that share a scale
  x.stride = std::size_t(round_up(w.k, 64)) * std::size_t(kernels.activation_bytes(x.format));
  x.scales = is_int8(x.format) ? (w.k + inputs - 1) / inputs : 0;
  x.data = memory.data.as<std::uint8_t>();
  x.scale = memory.scale.as<float>();
  x.sum = memory.sum.as<std::int32_t>();
  x.scaled_sum = memory.scaled_sum.as<float>();
  return x;
}

void ActivationBuffer::prepare(const Kernels& kernels, const MatrixGroup& matrices, const float* x, int padded, int t) const {
  bool done[kNumActivationFormats] = {};
  for (int part = 0; part < matrices.count; ++part) {
    const PackedMatrix& w = matrices.parts[part];
    if (std::exchange(done[int(w.format->activations)], true)) continue;
    kernels.prepare(x, padded, view(kernels, w), t);
  }
}

Activations from_token(Activations x, int t) {
  const std::size_t token = std::size_t(t), scales = token * std::size_t(x.scales);
  x.data += token * x.stride;
  if (!x.scales) return x;
  x.scale += scales;
  x.sum += x.format == ActivationFormat::Int8 ? scales : 2 * scales;
  x.scaled_sum += scales;
  return x;
}

void multiply_together(Phase& phase, const Kernels& kernels, const MatrixGroup& matrices, const ActivationBuffer& inputs,
                       int tokens, const Epilogue& epilogue, const MatrixGroup& after, bool interleave) {
  const int blocks = matrices.blocks();
  phase.each(blocks, 1, [&](int begin, int end, int thread) {
    int block = begin;
    const int part = matrices.part_of(block);
    const PackedMatrix& w = matrices.parts[part];
    Epilogue own = epilogue;
    if (interleave) {
      own.y += part * kLanes;
      own.step = matrices.count * kLanes;
    } else {
      own.y += std::size_t(begin - block) * kBlock;
    }
    const bool is_last = end == phase.share_end(blocks, thread);
    const std::uint8_t* next = is_last ? after.block(phase.share_begin(after.blocks(), thread)) : matrices.block(end);
    kernels.multiply(w, block, inputs.view(kernels, w), tokens, own, next);
  });
}

}  // namespace eyas
