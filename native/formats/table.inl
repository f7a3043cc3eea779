// All weight formats, in the order of the table. Included into the namespace of an instruction set, behind tiles.inl and
// blocks.inl.

#include "float32.inl"
#include "bfloat16.inl"
#include "float16.inl"
#include "int8.inl"
#include "q4_0.inl"
#include "q4_1.inl"
#include "q5_0.inl"
#include "q5_1.inl"
#include "q8_0.inl"
#include "q2_k.inl"
#include "q3_k.inl"
#include "q4_k.inl"
#include "q5_k.inl"
#include "q6_k.inl"
#include "iq4_nl.inl"
#include "iq4_xs.inl"
#include "mxfp4.inl"

template <template <class...> class Table>
using OfAllFormats =
    Table<Float32, Bfloat16, Float16, Int8, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, IQ4_NL, IQ4_XS, MXFP4>;
