/* Stand-ins for the functions of CUDA's libraries whose result matters while ONNX Runtime's CUDA provider creates a
   session. All others return 0; scripts/cuda_stand_ins.py adds them. "Device" memory is the host's, and no kernel runs:
   a session can be created and says where its nodes lie, but it computes nothing. */

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* A handle is any memory of its own. */
#define HANDLE(name) int name(void **handle) { *handle = calloc(1, 64); return 0; }
#define HANDLE_WITH_FLAGS(name) int name(void **handle, unsigned flags) { (void)flags; *handle = calloc(1, 64); return 0; }
#define TEXT(name) const char *name(int code) { (void)code; return "stand-in library"; }

static int allocate(void **memory, size_t bytes) {
    *memory = aligned_alloc(512, (bytes + 1023) & ~(size_t)511);
    return *memory ? 0 : 2;
}

#ifdef LIB_cudart
int cudaGetDeviceCount(int *count) { *count = 1; return 0; }
int cudaGetDevice(int *device) { *device = 0; return 0; }

/* struct cudaDeviceProp of CUDA 13, by offsets: an H100 without memory pools. */
static void set32(char *properties, size_t offset, int32_t value) { memcpy(properties + offset, &value, sizeof value); }
static void set64(char *properties, size_t offset, uint64_t value) { memcpy(properties + offset, &value, sizeof value); }
int cudaGetDeviceProperties(char *properties, int device) {
    (void)device;
    memset(properties, 0, 1008);
    strcpy(properties, "stand-in device");
    set64(properties, 288, (uint64_t)80 << 30); /* totalGlobalMem */
    set64(properties, 296, 49152);              /* sharedMemPerBlock */
    set32(properties, 304, 65536);              /* regsPerBlock */
    set32(properties, 308, 32);                 /* warpSize */
    set32(properties, 320, 1024);               /* maxThreadsPerBlock */
    set32(properties, 324, 1024);               /* maxThreadsDim */
    set32(properties, 328, 1024);
    set32(properties, 332, 64);
    set32(properties, 336, 2147483647);         /* maxGridSize */
    set32(properties, 340, 65535);
    set32(properties, 344, 65535);
    set32(properties, 360, 9);                  /* major */
    set32(properties, 384, 132);                /* multiProcessorCount */
    set32(properties, 560, 1);                  /* concurrentKernels */
    set32(properties, 584, 3);                  /* asyncEngineCount */
    set32(properties, 588, 1);                  /* unifiedAddressing */
    set32(properties, 596, 50 << 20);           /* l2CacheSize */
    set32(properties, 604, 2048);               /* maxThreadsPerMultiProcessor */
    set64(properties, 624, 233472);             /* sharedMemPerMultiprocessor */
    set32(properties, 632, 65536);              /* regsPerMultiprocessor */
    set32(properties, 668, 1);                  /* cooperativeLaunch */
    set64(properties, 672, 232448);             /* sharedMemPerBlockOptin */
    set32(properties, 688, 32);                 /* maxBlocksPerMultiProcessor */
    return 0;
}
int cudaDeviceGetAttribute(int *value, int attribute, int device) {
    (void)device;
    switch (attribute) {
    case 1: *value = 1024; break;    /* threads of a block */
    case 8: *value = 49152; break;   /* shared memory of a block */
    case 10: *value = 32; break;     /* warp */
    case 16: *value = 132; break;    /* multiprocessors */
    case 75: *value = 9; break;      /* compute capability */
    case 76: *value = 0; break;
    case 97: *value = 232448; break; /* shared memory of a block that opts in */
    default: *value = 1;
    }
    return 0;
}
int cudaRuntimeGetVersion(int *version) { *version = 13000; return 0; }
int cudaDriverGetVersion(int *version) { *version = 13000; return 0; }
int cudaMemGetInfo(size_t *free_bytes, size_t *total) { *free_bytes = *total = (size_t)80 << 30; return 0; }
int cudaMalloc(void **memory, size_t bytes) { return allocate(memory, bytes); }
int cudaMallocHost(void **memory, size_t bytes) { return allocate(memory, bytes); }
int cudaHostAlloc(void **memory, size_t bytes, unsigned flags) { (void)flags; return allocate(memory, bytes); }
int cudaFree(void *memory) { free(memory); return 0; }
int cudaFreeHost(void *memory) { free(memory); return 0; }
int cudaMemcpy(void *to, const void *from, size_t bytes, int kind) { (void)kind; memcpy(to, from, bytes); return 0; }
int cudaMemcpyAsync(void *to, const void *from, size_t bytes, int kind, void *stream) { (void)kind, (void)stream; memcpy(to, from, bytes); return 0; }
int cudaMemset(void *to, int value, size_t bytes) { memset(to, value, bytes); return 0; }
int cudaMemsetAsync(void *to, int value, size_t bytes, void *stream) { (void)stream; memset(to, value, bytes); return 0; }
HANDLE(cudaStreamCreate)
HANDLE_WITH_FLAGS(cudaStreamCreateWithFlags)
HANDLE(cudaEventCreate)
HANDLE_WITH_FLAGS(cudaEventCreateWithFlags)
int cudaStreamIsCapturing(void *stream, int *capturing) { (void)stream; *capturing = 0; return 0; }
int cudaPointerGetAttributes(void *attributes, const void *pointer) { (void)pointer; memset(attributes, 0, 32); *(int *)attributes = 2; return 0; }
void **__cudaRegisterFatBinary(void *image) { (void)image; return calloc(1, 64); }
int __cudaGetKernel(void **kernel, const void *function) { *kernel = (void *)function; return 0; }
unsigned __cudaPushCallConfiguration(void) { return 0; }
TEXT(cudaGetErrorString)
TEXT(cudaGetErrorName)
#endif

#ifdef LIB_cublas
HANDLE(cublasCreate_v2)
int cublasGetMathMode(void *handle, int *mode) { (void)handle; *mode = 0; return 0; }
TEXT(cublasGetStatusName)
TEXT(cublasGetStatusString)
#endif

#ifdef LIB_cublasLt
HANDLE(cublasLtCreate)
#endif

#ifdef LIB_cudnn
HANDLE(cudnnCreate)
size_t cudnnGetVersion(void) { return 92400; }
size_t cudnnGetCudartVersion(void) { return 13000; }
int cudnnBackendCreateDescriptor(int kind, void **descriptor) { (void)kind; *descriptor = calloc(1, 64); return 0; }
TEXT(cudnnGetErrorString)
#endif

#ifdef LIB_cuda
int cuDeviceGetCount(int *count) { *count = 1; return 0; }
#endif
