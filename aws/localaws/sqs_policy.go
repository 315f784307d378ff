package localaws

import (
	"encoding/json"
	"slices"
)

// queuePolicy is an access policy, as far as AddPermission and
// RemovePermission touch it. Nothing is ever refused on its account: requests
// are not authenticated.
type queuePolicy struct {
	Version   string            `json:"Version"`
	ID        string            `json:"Id,omitempty"`
	Statement []json.RawMessage `json:"Statement"`
}

type policyStatement struct {
	Sid       string `json:"Sid"`
	Effect    string `json:"Effect"`
	Principal any    `json:"Principal"`
	Action    any    `json:"Action"`
	Resource  string `json:"Resource"`
}

func parsePolicy(raw string) (queuePolicy, error) {
	var p queuePolicy
	if raw == "" {
		return p, nil
	}
	if err := json.Unmarshal([]byte(raw), &p); err != nil {
		return p, errAttributeValue("Policy")
	}
	return p, nil
}

func (p queuePolicy) find(label string) int {
	return slices.IndexFunc(p.Statement, func(raw json.RawMessage) bool {
		var s struct {
			Sid string `json:"Sid"`
		}
		return json.Unmarshal(raw, &s) == nil && s.Sid == label
	})
}

func permissionAction(name string) bool {
	switch name {
	case "*", "SendMessage", "ReceiveMessage", "DeleteMessage", "ChangeMessageVisibility",
		"GetQueueAttributes", "GetQueueUrl", "ListDeadLetterSourceQueues", "PurgeQueue":
		return true
	}
	return false
}

func (s *sqsService) addPermission(_ *caller, in *addPermissionInput) (empty, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	q, err := s.queueByURL(in.QueueUrl)
	if err != nil {
		return empty{}, err
	}
	if err := checkPermission(in, q.policy); err != nil {
		return empty{}, err
	}
	statement := policyStatement{Sid: in.Label, Effect: "Allow", Resource: q.arn()}
	var principals, actions []string
	for _, id := range in.AWSAccountIds {
		principals = append(principals, "arn:aws:iam::"+id+":root")
	}
	for _, a := range in.Actions {
		actions = append(actions, "SQS:"+a)
	}
	statement.Principal, statement.Action = map[string]any{"AWS": oneOrMany(principals)}, oneOrMany(actions)
	raw, _ := json.Marshal(statement) // strings only
	q.policy.Statement = append(q.policy.Statement, raw)
	q.storePolicy()
	q.modified = s.clock.Now()
	return empty{}, nil
}

func checkPermission(in *addPermissionInput, policy queuePolicy) error {
	switch {
	case !entryID(in.Label):
		return errValue(in.Label, "Label", "Can only include alphanumeric characters, hyphens, or underscores. 1 to 80 in length")
	case len(in.AWSAccountIds) == 0:
		return errMissing("AWSAccountIds")
	case len(in.Actions) == 0:
		return errMissing("Actions")
	case len(in.Actions) > 7:
		return errOverLimit("%d Actions were found, maximum allowed is 7.", len(in.Actions))
	case policy.find(in.Label) >= 0:
		return errValue(in.Label, "Label", "Already exists")
	}
	for _, a := range in.Actions {
		if !permissionAction(a) {
			return errValue("SQS:"+a, "ActionName", "Only the queue owner is allowed to invoke this action")
		}
	}
	return nil
}

func (s *sqsService) removePermission(_ *caller, in *removePermissionInput) (empty, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	q, err := s.queueByURL(in.QueueUrl)
	if err != nil {
		return empty{}, err
	}
	i := q.policy.find(in.Label)
	if i < 0 {
		return empty{}, errValue(in.Label, "Label", "can't find label on existing policy")
	}
	q.policy.Statement = slices.Delete(q.policy.Statement, i, i+1)
	q.storePolicy()
	q.modified = s.clock.Now()
	return empty{}, nil
}

// storePolicy writes the policy back into the attribute.
func (q *queue) storePolicy() {
	if len(q.policy.Statement) == 0 {
		delete(q.attrs, "Policy")
		return
	}
	if q.policy.Version == "" {
		q.policy.Version, q.policy.ID = "2012-10-17", q.arn()+"/SQSDefaultPolicy"
	}
	raw, _ := json.Marshal(q.policy) // was parsed or built from strings
	q.attrs["Policy"] = string(raw)
}

func oneOrMany(values []string) any {
	if len(values) == 1 {
		return values[0]
	}
	return values
}
