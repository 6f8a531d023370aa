/* Threefry-2x32 with 20 rounds (Salmon et al. 2011) as a handler of XLA's foreign function interface.

   Two words of the key and two counters give two words. An operand of one element holds for all.
   threefry.py compiles this file. */
#include <stdint.h>

#include "xla/ffi/api/c_api.h"

static int64_t size(const XLA_FFI_Buffer *buffer) {
  int64_t product = 1;
  for (int64_t axis = 0; axis < buffer->rank; ++axis) product *= buffer->dims[axis];
  return product;
}

#define ROUND(turn) \
  high += low;      \
  low = high ^ (low << turn | low >> (32 - turn));
#define BLOCK(a, b, c, d, key_high, key_low) \
  ROUND(a) ROUND(b) ROUND(c) ROUND(d)        \
  high += key_high;                          \
  low += key_low;

/* The hash of one pair of counters; written so that the loop over pairs becomes vector instructions. */
static inline void hash(uint32_t key_0, uint32_t key_1, uint32_t high, uint32_t low,
                        uint32_t *high_out, uint32_t *low_out) {
  const uint32_t key_2 = key_0 ^ key_1 ^ 0x1BD11BDA;
  high += key_0;
  low += key_1;
  BLOCK(13, 15, 26, 6, key_1, key_2 + 1)
  BLOCK(17, 29, 16, 24, key_2, key_0 + 2)
  BLOCK(13, 15, 26, 6, key_0, key_1 + 3)
  BLOCK(17, 29, 16, 24, key_1, key_2 + 4)
  BLOCK(13, 15, 26, 6, key_2, key_0 + 5)
  *high_out = high;
  *low_out = low;
}

XLA_FFI_Error *threefry2x32(XLA_FFI_CallFrame *frame) {
  XLA_FFI_Extension_Base *extension = frame->extension_start;
  if (extension != NULL && extension->type == XLA_FFI_Extension_Metadata) { /* asked at registration */
    XLA_FFI_Api_Version *version = &((XLA_FFI_Metadata_Extension *)extension)->metadata->api_version;
    version->major_version = XLA_FFI_API_MAJOR;
    version->minor_version = XLA_FFI_API_MINOR;
    return NULL;
  }
  XLA_FFI_Buffer **operands = (XLA_FFI_Buffer **)frame->args.args;
  XLA_FFI_Buffer **results = (XLA_FFI_Buffer **)frame->rets.rets;
  const uint32_t *words[4];
  int64_t strides[4];
  for (int i = 0; i < 4; ++i) {
    words[i] = operands[i]->data;
    strides[i] = size(operands[i]) > 1;
  }
  uint32_t *restrict high = results[0]->data, *restrict low = results[1]->data;
  const int64_t number = size(results[0]);
  if (!strides[0] && !strides[1] && strides[2] && strides[3]) { /* one key, as in most draws */
    const uint32_t key_0 = *words[0], key_1 = *words[1];
    for (int64_t n = 0; n < number; ++n)
      hash(key_0, key_1, words[2][n], words[3][n], high + n, low + n);
    return NULL;
  }
  for (int64_t n = 0; n < number; ++n)
    hash(words[0][n * strides[0]], words[1][n * strides[1]], words[2][n * strides[2]],
         words[3][n * strides[3]], high + n, low + n);
  return NULL;
}
