// Package proxy is the flip valve that stands before the application: an HTTP/1.1 reverse proxy with one target at a time, which a
// deployment swaps without a client noticing. It runs as a process and unit of its own and is controlled over a unix socket
// (Client is the other end), so it serves on when the agent is stopped, replaced or broken.
//
// It knows nothing of containers, commands or AWS: a target is an address with labels. It terminates no TLS, speaks no HTTP/2 and serves
// no files; a web server that does may stand in front of it.
//
// Invariants:
//   - Choosing the target and counting the request in flight happen under one lock, the lock the swap takes. A request therefore either began
//     before the swap, is counted on the old target and ends there, or goes to the new one: drain cannot miss any.
//   - A swap is on disk before it takes effect and before it is answered. After kill -9 the last answered target serves, with no agent.
//   - Message framing is always written anew from what was parsed, never copied, so a client and the target cannot disagree on where
//     a request ends. Ambiguous responses end the connection they came on.
//   - A request is sent twice only when it is safe: never a byte of a response seen, and either its method is idempotent and it has no body, or
//     nothing of it was written. Requests that cannot be repeated ride only on connections that are known not to be about to close.
//   - Memory is bounded per request: bodies stream through fixed buffers, headers have limits.
//   - The running checks inform; they never take the only target out.
package proxy
