// The Python module eyas._native.

#include "bindings.h"

NB_MODULE(_native, m) {
  m.doc() = "The native CPU engine (see eyas.runtimes.native).";
  eyas::bind_weights(m);
  eyas::bind_stack(m);
  eyas::bind_head(m);
  eyas::bind_target(m);
  eyas::bind_drafting(m);
}
