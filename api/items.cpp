#include "api/items.h"

#include "schemas/json.h"

namespace tidemark::api {

using schemas::json::append_string;

Items::Items(Media media, std::span<const std::string_view> columns) : media_(media), columns_(columns) {
    if (media_ == Media::json) body_ = R"({"items":[)";
    if (media_ != Media::csv) return;
    for (const auto column : columns_)
        body_.append(body_.empty() ? "" : ",").append(column);
    body_.append("\r\n");
}

void Items::begin_cell() {
    if (media_ == Media::csv) {
        if (column_ > 0) body_.push_back(',');
        return;
    }
    begin_row();
    if (!row_is_empty_) body_.push_back(',');
    row_is_empty_ = false;
    append_string(body_, columns_[column_]);
    body_.push_back(':');
}

void Items::begin_row() {
    if (column_ > 0) return;
    row_is_empty_ = true;
    if (media_ == Media::json && !empty_) body_.push_back(',');
    body_.push_back('{');
}

void Items::end_cell() {
    empty_ = false;
    if (++column_ < columns_.size()) return;
    column_ = 0;
    switch (media_) {
        case Media::json:
            body_.push_back('}');
            break;
        case Media::ndjson:
            body_.append("}\n");
            break;
        case Media::csv:
            body_.append("\r\n");
            break;
    }
}

void Items::text(std::string_view value) {
    begin_cell();
    if (media_ != Media::csv) {
        append_string(body_, value);
    } else if (value.find_first_of(",\"\r\n") == std::string_view::npos && !value.empty()) {
        body_.append(value);
    } else {
        body_.push_back('"');  // the empty text too, which tells it from null
        for (const char c : value)
            body_.append(c == '"' ? 2 : 1, c);
        body_.push_back('"');
    }
    end_cell();
}

void Items::number(std::string_view digits) {
    begin_cell();
    body_.append(digits);
    end_cell();
}

void Items::instant(schemas::Timestamp value) {
    begin_cell();
    if (media_ != Media::csv) body_.push_back('"');
    schemas::append_instant(body_, value);
    if (media_ != Media::csv) body_.push_back('"');
    end_cell();
}

void Items::flag(bool value) {
    begin_cell();
    body_.append(value ? "true" : "false");
    end_cell();
}

void Items::null() {
    begin_cell();
    if (media_ != Media::csv) body_.append("null");
    end_cell();
}

void Items::absent() {
    if (media_ == Media::csv) {
        begin_cell();
    } else {
        begin_row();
    }
    end_cell();
}

std::string Items::finish(std::string_view next) {
    if (media_ == Media::json) {
        body_.push_back(']');
        if (!next.empty()) {
            body_.append(R"(,"next":)");
            append_string(body_, next);
        }
        body_.push_back('}');
    }
    return std::move(body_);
}

void Item::begin_member(std::string_view name) {
    if (body_.size() > 1) body_.push_back(',');
    append_string(body_, name);
    body_.push_back(':');
}

Item& Item::text(std::string_view name, std::string_view value) {
    begin_member(name);
    append_string(body_, value);
    return *this;
}

Item& Item::number(std::string_view name, std::string_view digits) {
    begin_member(name);
    body_.append(digits);
    return *this;
}

Item& Item::instant(std::string_view name, schemas::Timestamp value) {
    begin_member(name);
    body_.push_back('"');
    schemas::append_instant(body_, value);
    body_.push_back('"');
    return *this;
}

Item& Item::null(std::string_view name) {
    begin_member(name);
    body_.append("null");
    return *this;
}

}  // namespace tidemark::api
