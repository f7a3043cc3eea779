// Quantising weights to GGUF's blocks, by the published rules without importance weights.
//
// The same bytes come out on every machine: each sum has one order, and nothing depends on the instruction set.
#pragma once

#include "formats.h"

namespace eyas {

struct BlockQuantiser {
  const char* name;                                           // as GGUF calls the format
  int block;                                                  // weights of a block
  int bytes;                                                  // of a block
  void (*quantise)(const float* weights, std::uint8_t* out);  // writes one block
};

// Null if there is none of that name.
const BlockQuantiser* find_block_quantiser(const char* name);

// Writes (n, k / block) blocks, where `block` divides k. Returns the number of weights that are not in -65504..65504, which
// no format can hold; their rows are not written.
std::size_t quantise_rows(const WeightRows& rows, int n, int k, const BlockQuantiser& format, std::uint8_t* out, int threads);

}  // namespace eyas
