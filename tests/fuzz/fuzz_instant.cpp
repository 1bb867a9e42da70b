// An instant from a path, a query or an event.

#include "target.h"

#include "schemas/instant.h"

#include <optional>
#include <string_view>

namespace {

using namespace tidemark::schemas;
using tidemark::fuzz::require;

void check(std::optional<Timestamp> instant) {
    if (!instant) return;
    const auto text = format_instant(*instant);
    require(text.size() == 20 || text.size() == 24 || text.size() == 27, "an instant has 0, 3 or 6 fraction digits");
    require(parse_instant(text) == instant, "an instant survives being written and read");
    require(parse_query_instant(text) == instant, "a query takes what is written");
    const auto start = window_start(*instant);
    require(start <= *instant && *instant < start + kWindowLength, "an instant lies in its window");
}

}  // namespace

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const auto text = tidemark::fuzz::as_text(data, size);
    const auto instant = parse_instant(text);
    const auto query_instant = parse_query_instant(text);
    check(instant);
    check(query_instant);
    require(!instant || instant == query_instant, "a query takes every instant");
    return 0;
}
