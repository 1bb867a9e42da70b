// A token, and the other short texts that a path or a query brings: an id, an integer.

#include "target.h"

#include "schemas/json.h"
#include "schemas/position.h"
#include "schemas/vehicles.h"

#include <cstdint>
#include <limits>
#include <string>

namespace {

using namespace tidemark::schemas;
using tidemark::fuzz::require;

}  // namespace

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const auto text = tidemark::fuzz::as_text(data, size);
    if (const auto parts = parse_token(text)) {
        require(!parts->empty() && parts->size() <= 1'024, "a token has 1 to 1,024 parts");
        std::string again;
        for (const auto& part : *parts) {
            require(part.position.partition >= 0 && part.position.offset >= 0, "a position is not negative");
            if (!again.empty()) again.append(1, ',');
            append_token(again, part.stream, part.log_hash, part.position);
        }
        require(again == text, "one position has one text");
    }
    if (const auto id = vehicles::parse_id(text)) require(std::to_string(*id) == text, "one id has one text");
    const auto integer =
        json::to_integer(text, std::numeric_limits<std::int64_t>::min(), std::numeric_limits<std::int64_t>::max());
    if (integer && text != "-0") require(std::to_string(*integer) == text, "one integer has one text");
    return 0;
}
