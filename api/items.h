#pragma once

#include "api/request.h"
#include "schemas/instant.h"

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>

namespace tidemark::api {

/// Writes rows of the same columns as a body: {"items":[{...},...],"next":"..."}, or CSV (RFC 4180, with a header line,
/// null as nothing), or one JSON object per line. One cell is added at a time, in order of the columns; the last ends
/// its row.
class Items {
public:
    /// `columns` must outlive it.
    Items(Media media, std::span<const std::string_view> columns);

    void text(std::string_view value);     ///< UTF-8
    void number(std::string_view digits);  ///< as written
    void instant(schemas::Timestamp value);
    void flag(bool value);
    void null();
    void absent();  ///< the row has no such member; in CSV it is as null

    /// The body; the last call. `next`: cursor of the next page, empty on the last; stands in JSON only.
    std::string finish(std::string_view next);

private:
    void begin_cell();
    void begin_row();
    void end_cell();

    Media media_;
    std::span<const std::string_view> columns_;
    std::size_t column_ = 0;
    bool empty_ = true;
    bool row_is_empty_ = true;
    std::string body_;
};

/// One row as a JSON object alone.
class Item {
public:
    Item() : body_("{") {}

    Item& text(std::string_view name, std::string_view value);
    Item& number(std::string_view name, std::string_view digits);
    Item& instant(std::string_view name, schemas::Timestamp value);
    Item& null(std::string_view name);

    /// The object; the last call.
    std::string finish() {
        body_.push_back('}');
        return std::move(body_);
    }

private:
    void begin_member(std::string_view name);
    std::string body_;
};

}  // namespace tidemark::api
