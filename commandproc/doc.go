// Package commandproc runs one command: its stages, their actions, the hooks of the hook actions, in the order of the table in commands.go, and
// makes a result of what came of it. It writes eb-commandprocessor.log and eb-activity.log through the interfaces of log.go.
//
// It knows neither AWS, Docker nor the proxy: what an action does is handed in (Processor.Infra, Processor.Dirs), what came before it is handed
// in (Job.Previous), where events go is handed in.
//
// Invariants:
//   - A command ends SUCCESS, or every compensated step it began is undone, in reverse order, before its result is known.
//   - The first failing action stops the rest, AddonsAfter included.
//   - The command's time runs from its start; what must happen after it ran out (undoing) has a bounded time of its own.
//   - Every action and every hook is journalled before and after it runs.
//   - A panic of an action fails the command, not the agent.
package commandproc
