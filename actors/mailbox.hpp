// SPDX-License-Identifier: Apache-2.0
#pragma once
// Sending with a count of what waits: CAF's mailboxes are unbounded and do not tell their depth, so
// the sender adds one to the receiver's gauge and the receiver takes it off when it handles the
// message.

#include <caf/all.hpp>

#include "base/counters.hpp"

namespace foretoken::actors {

template <class Handle, class Message>
void tell(gauge& depth, const Handle& to, Message message) {
  depth.add(1);
  caf::anon_send(to, std::move(message));
}

// Past everything that waits in the receiver's mailbox.
template <class Handle, class Message>
void tell_first(gauge& depth, const Handle& to, Message message) {
  depth.add(1);
  caf::anon_send<caf::message_priority::high>(to, std::move(message));
}

}  // namespace foretoken::actors
