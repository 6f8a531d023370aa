/* Threefry-2x32 with 20 rounds (Salmon et al. 2011) as a handler of XLA's foreign function interface.

   Two words of the key and two counters give two words. An operand of one element holds for all.
   threefry.py compiles this file. */
#include <stdint.h>

#include "xla/ffi/api/c_api.h"

static const uint32_t ROTATIONS[2][4] = {{13, 15, 26, 6}, {17, 29, 16, 24}};

static int64_t size(const XLA_FFI_Buffer *buffer) {
  int64_t product = 1;
  for (int64_t axis = 0; axis < buffer->rank; ++axis) product *= buffer->dims[axis];
  return product;
}

static void hash(const uint32_t key[2], uint32_t *high, uint32_t *low) {
  const uint32_t keys[3] = {key[0], key[1], key[0] ^ key[1] ^ 0x1BD11BDA};
  *high += keys[0];
  *low += keys[1];
  for (uint32_t block = 0; block < 5; ++block) {
    for (int round = 0; round < 4; ++round) {
      const uint32_t turn = ROTATIONS[block % 2][round];
      *high += *low;
      *low = *high ^ (*low << turn | *low >> (32 - turn));
    }
    *high += keys[(block + 1) % 3];
    *low += keys[(block + 2) % 3] + block + 1;
  }
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
  uint32_t *high = results[0]->data, *low = results[1]->data;
  const int64_t number = size(results[0]);
  for (int64_t n = 0; n < number; ++n) {
    const uint32_t key[2] = {words[0][n * strides[0]], words[1][n * strides[1]]};
    high[n] = words[2][n * strides[2]];
    low[n] = words[3][n * strides[3]];
    hash(key, high + n, low + n);
  }
  return NULL;
}
