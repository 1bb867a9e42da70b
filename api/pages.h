#pragma once

#include "infra/http/router.h"

#include <string>
#include <string_view>

namespace tidemark::api {

/// Header lines of an answer that is true only at this moment.
inline constexpr std::string_view kNoStore = "Cache-Control: no-store\r\n";

/// A GET route whose answer is the same for everybody; query parameters are refused.
void add_plain(http::Router& router, std::string path, http::Handler handler);

/// What the service says about itself: /openapi.json, /problems/{name}, and / and /docs, which list the routes that the
/// router has when this is called and these.
void add_pages(http::Router& router);

}  // namespace tidemark::api
