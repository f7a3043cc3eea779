// All weight formats, in the order of the table. Included into the namespace of an instruction set, behind tiles.inl.

#include "float32.inl"
#include "bfloat16.inl"
#include "int8.inl"

template <template <class...> class Table>
using OfAllFormats = Table<Float32, Bfloat16, Int8>;
