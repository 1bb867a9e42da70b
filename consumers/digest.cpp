#include "consumers/digest.h"

#include <sodium.h>

#include <array>
#include <cstddef>

namespace tidemark::consumers {

Weights weights_of(std::string_view text) {
    std::array<unsigned char, crypto_hash_sha256_BYTES> hash{};
    crypto_hash_sha256(hash.data(), reinterpret_cast<const unsigned char*>(text.data()), text.size());
    const auto word = [&](std::size_t from) {
        Digest number = 0;
        for (auto n = from; n < from + sizeof number; ++n)
            number = number << 8 | hash[n];
        return number;
    };
    return {word(0), word(sizeof(Digest))};
}

}  // namespace tidemark::consumers
