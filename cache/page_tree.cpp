// SPDX-License-Identifier: Apache-2.0
#include "cache/page_tree.hpp"

#include <algorithm>

#include "base/assert.hpp"

namespace foretoken::cache {
namespace {

constexpr page_id none{-1};

int shared(std::span<const token> a, std::span<const token> b) noexcept {
  const std::size_t n = std::min(a.size(), b.size());
  std::size_t i = 0;
  while (i < n && a[i] == b[i]) ++i;
  return static_cast<int>(i);
}

}  // namespace

page_key::page_key(std::span<const token> from) noexcept : count(static_cast<int>(from.size())) {
  FORETOKEN_ASSERT(!from.empty() && from.size() <= tokens.size());
  std::copy(from.begin(), from.end(), tokens.begin());
}

bool page_key::operator<(const page_key& other) const noexcept {
  const auto a = view(), b = other.view();
  return std::lexicographical_compare(a.begin(), a.end(), b.begin(), b.end());
}

bool page_key::operator==(const page_key& other) const noexcept {
  const auto a = view(), b = other.view();
  return std::equal(a.begin(), a.end(), b.begin(), b.end());
}

const page_children* page_tree::below(const place& where) const {
  if (where.parent != none) return &at(where.parent).children;
  const auto root = roots_.find(where.space);
  return root == roots_.end() ? nullptr : &root->second;
}

page_tree::match page_tree::best(const place& where, std::span<const token> wanted) const {
  const page_children* children = below(where);
  if (children == nullptr || children->empty() || wanted.empty()) return {};
  match found;
  const auto consider = [&](page_children::const_iterator child) {
    const int tokens = shared(child->first.view(), wanted);
    if (tokens > found.tokens) found = {child->second, tokens};
  };
  const auto after = children->lower_bound(page_key(wanted));
  if (after != children->end()) consider(after);
  if (after != children->begin()) consider(std::prev(after));
  return found;
}

page_id page_tree::insert(const place& where,
                          std::span<const token> tokens,
                          page_id page,
                          page_id& dropped) {
  dropped = none;
  const page_key key(tokens);
  // A sequence publishes again and again as it grows: its own pages are found without a search.
  node& own = at(page);
  if (own.attached && own.where.space == where.space && own.where.parent == where.parent &&
      own.key == key) {
    return page;
  }
  page_children& children = where.parent == none ? roots_[where.space] : at(where.parent).children;
  auto after = children.lower_bound(key);
  if (after != children.end() && shared(after->first.view(), tokens) == key.count) {
    return after->second;
  }
  if (after != children.begin()) {
    const auto shorter = std::prev(after);
    if (shared(shorter->first.view(), tokens) == shorter->first.count) {
      // The same tokens and more: the longer page takes the place of the partial one.
      dropped = shorter->second == page ? none : shorter->second;
      at(shorter->second).attached = false;
      children.erase(shorter);
    }
  }
  FORETOKEN_ASSERT(!own.attached);
  own.attached = true;
  own.where = where;
  own.key = key;
  children.emplace(key, page);
  return page;
}

void page_tree::remove(page_id page) {
  node& gone = at(page);
  FORETOKEN_ASSERT(gone.attached && gone.children.empty());
  if (gone.where.parent != none) {
    at(gone.where.parent).children.erase(gone.key);
  } else {
    const auto root = roots_.find(gone.where.space);
    root->second.erase(gone.key);
    if (root->second.empty()) roots_.erase(root);
  }
  gone.attached = false;
}

std::vector<page_id> page_tree::children(page_id page) const {
  std::vector<page_id> out;
  for (const auto& [key, child] : at(page).children) out.push_back(child);
  return out;
}

void page_tree::clear() {
  roots_.clear();
  for (node& each : nodes_) {
    each.attached = false;
    each.children.clear();
  }
}

std::string page_tree::audit_children(const place& where,
                                      const page_children& children,
                                      int& seen) const {
  const page_key* before = nullptr;
  for (const auto& [key, page] : children) {
    const std::string name = "page " + std::to_string(static_cast<int>(page));
    const node& child = at(page);
    ++seen;
    if (!child.attached) return name + " is a child but not attached";
    if (child.where.space != where.space || child.where.parent != where.parent) {
      return name + " has another parent than the one that lists it";
    }
    if (!(child.key == key)) return name + " is listed under other tokens than its own";
    if (key.count < 1 || key.count > page_tokens) return name + " holds a wrong count of tokens";
    if (key.count < page_tokens && !child.children.empty()) {
      return name + " is partial and has children";
    }
    if (before != nullptr && shared(before->view(), key.view()) == before->count) {
      return name + " extends a sibling that should have been replaced";
    }
    before = &key;
  }
  return {};
}

std::string page_tree::audit() const {
  int seen = 0, attached = 0;
  for (const auto& [space, children] : roots_) {
    if (children.empty()) return "a namespace without pages is kept";
    if (auto broken = audit_children({space, none}, children, seen); !broken.empty()) return broken;
  }
  for (std::size_t i = 0; i < nodes_.size(); ++i) {
    if (!nodes_[i].attached) {
      if (!nodes_[i].children.empty()) return "page " + std::to_string(i) + " left children behind";
      continue;
    }
    ++attached;
    const place here{nodes_[i].where.space, page_id{static_cast<int>(i)}};
    if (auto broken = audit_children(here, nodes_[i].children, seen); !broken.empty())
      return broken;
  }
  // Every attached node is listed once, by the parent it names: no cycle can hide from the roots,
  // because a parent is attached before its children and removed after them.
  if (seen != attached) return "pages in the tree and pages listed by parents differ";
  return {};
}

}  // namespace foretoken::cache
