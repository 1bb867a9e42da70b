#pragma once

#include "infra/postgres/query.h"
#include "schemas/catalogue.h"

#include <span>
#include <string>
#include <string_view>
#include <utility>

namespace tidemark::api {

using Streams = std::span<const schemas::Stream>;

/// A statement whose text is made when the program starts. Its address is what a query is submitted with, so it has to
/// outlive the router.
class Sql {
public:
    Sql(std::string name, std::string text)
        : name_(std::move(name)), text_(std::move(text)), statement_{name_.c_str(), text_.c_str()} {}
    Sql(const Sql&) = delete;
    Sql& operator=(const Sql&) = delete;

    [[nodiscard]] const pg::Statement& statement() const noexcept { return statement_; }

private:
    const std::string name_;
    const std::string text_;
    const pg::Statement statement_;
};

/// `text` once for each of the streams, joined; '@' is the stream's schema, '#' its name.
std::string for_each_stream(Streams streams, std::string_view text, std::string_view between);

}  // namespace tidemark::api
