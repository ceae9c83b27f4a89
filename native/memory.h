// Blocks of memory for numbers: on cache lines, and on large pages where they are large.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <new>
#include <utility>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace quintet {

class Buffer {
public:
    Buffer() = default;
    Buffer(Buffer &&other) noexcept
        : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
    Buffer &operator=(Buffer &&other) noexcept {
        std::swap(data_, other.data_);
        std::swap(size_, other.size_);
        return *this;
    }
    ~Buffer() { std::free(data_); }

    // At least this many bytes; what was there is lost if they are more than before. Throws std::bad_alloc.
    void reserve(int64_t bytes) {
        if (bytes <= size_) return;
        constexpr int64_t LARGE_PAGE = 2 << 20;
        int64_t unit = bytes >= LARGE_PAGE ? LARGE_PAGE : 64;
        std::free(data_);
        size_ = 0;
        data_ = std::aligned_alloc(unit, (bytes + unit - 1) / unit * unit);
        if (data_ == nullptr) throw std::bad_alloc();
        size_ = bytes;
#if defined(__linux__)
        if (unit == LARGE_PAGE) madvise(data_, bytes, MADV_HUGEPAGE);
#endif
    }

    uint8_t *bytes() const { return static_cast<uint8_t *>(data_); }
    float *floats() const { return static_cast<float *>(data_); }

private:
    void *data_ = nullptr;
    int64_t size_ = 0;
};

}  // namespace quintet
