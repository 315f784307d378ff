package protocol

import "encoding/json"

// AbortOrder says who aborts an operation and why. It is the execution_data of CMD-Abort, whose data is the request_id of the operation.
type AbortOrder struct {
	By     string `json:"by,omitempty"`
	Reason string `json:"reason,omitempty"`
}

// Encode returns the execution_data.
func (o AbortOrder) Encode() string {
	b, _ := json.Marshal(o) // strings always encode
	return string(b)
}

// maxAbortText bounds what is taken over of who and why, in bytes: both stand in results and events.
const maxAbortText = 512

// DecodeAbort reads execution_data. What it does not hold, or what is none, is left empty: an abort counts whoever gave it.
func DecodeAbort(executionData string) AbortOrder {
	var o AbortOrder
	if json.Unmarshal([]byte(executionData), &o) != nil {
		return AbortOrder{}
	}
	return AbortOrder{cut(o.By), cut(o.Reason)}
}

func cut(text string) string {
	if len(text) > maxAbortText {
		text = text[:maxAbortText] + "..."
	}
	return text
}
