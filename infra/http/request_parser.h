#pragma once

#include "infra/http/framing.h"
#include "infra/http/message.h"

#include <string_view>
#include <vector>

namespace tidemark::http {

/// Parses one complete header block, as HeaderScan found it, with Beast. `line` and `fields` (cleared first) are views
/// into `block`. A refusal leaves them unspecified. What the parser accepts is still to be judged (framing.h).
Refusal parse_header_block(std::string_view block, RequestLine& line, std::vector<Field>& fields);

}  // namespace tidemark::http
