package localaws

import (
	"encoding/base64"
	"maps"
	"slices"
	"strings"
	"time"
)

const (
	// deletedHold is how long a deleted queue's name stays taken, and how far
	// apart two purges must be.
	deletedHold = 60 * time.Second

	maxTags       = 50
	maxPage       = 1000
	nameReason    = "Can only include alphanumeric characters, hyphens, or underscores. 1 to 80 in length"
	fifoReason    = "The name of a FIFO queue can only include alphanumeric characters, hyphens, or underscores, must end with .fifo suffix and be 1 to 80 in length"
	maxTagKey     = 128
	maxTagValue   = 256
	queueNameSize = 80
)

func (s *sqsService) createQueue(c *caller, in *createQueueInput) (queueURL, error) {
	fifo := in.Attributes["FifoQueue"] == "true"
	if err := checkQueueName(in.QueueName, fifo); err != nil {
		return queueURL{}, err
	}
	if err := checkTags(in.Tags, 0); err != nil {
		return queueURL{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.clock.Now()
	if q := s.queues[in.QueueName]; q != nil {
		return queueURL{c.url(q)}, s.sameAttributes(q, in.Attributes)
	}
	if at, ok := s.deleted[in.QueueName]; ok && now.Before(at.Add(deletedHold)) {
		return queueURL{}, errDeletedRecently()
	}
	q := newQueue(s.nextKey(), in.QueueName, c.region, fifo, now)
	q.attrs = defaultAttributes(fifo)
	if err := s.setAttributes(q, in.Attributes); err != nil {
		return queueURL{}, err
	}
	maps.Copy(q.tags, in.Tags)
	s.queues[q.name] = q
	delete(s.deleted, q.name)
	return queueURL{c.url(q)}, nil
}

// sameAttributes refuses to make a queue again that is different.
func (s *sqsService) sameAttributes(q *queue, attrs map[string]string) error {
	for _, name := range slices.Sorted(maps.Keys(attrs)) {
		if err := checkAttribute(name, attrs[name], q.fifo); err != nil {
			return err
		}
		if q.attrs[name] != attrs[name] {
			return errQueueExists(name)
		}
	}
	return nil
}

func checkQueueName(name string, fifo bool) error {
	base, dotFifo := strings.CutSuffix(name, ".fifo")
	switch {
	case name == "":
		return errMissing("QueueName")
	case fifo && !dotFifo:
		return errValue(name, "QueueName", fifoReason)
	case !fifo && dotFifo, len(name) > queueNameSize, !nameCharacters(base):
		return errValue(name, "QueueName", nameReason)
	}
	return nil
}

// nameCharacters tells whether s is made of what names are made of.
func nameCharacters(s string) bool {
	for _, r := range s {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '-', r == '_':
		default:
			return false
		}
	}
	return s != ""
}

func (s *sqsService) deleteQueue(_ *caller, in *queueRef) (empty, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	q, err := s.queueByURL(in.QueueUrl)
	if err != nil {
		return empty{}, err
	}
	now := s.clock.Now()
	for name, at := range s.deleted {
		if !now.Before(at.Add(deletedHold)) {
			delete(s.deleted, name)
		}
	}
	delete(s.queues, q.name)
	s.deleted[q.name] = now
	q.gone = true
	q.notify()
	return empty{}, nil
}

func (s *sqsService) getQueueURL(c *caller, in *getQueueURLInput) (queueURL, error) {
	if in.QueueName == "" {
		return queueURL{}, errMissing("QueueName")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	q := s.queues[in.QueueName]
	if q == nil || (in.QueueOwnerAWSAccountId != "" && in.QueueOwnerAWSAccountId != AccountID) {
		return queueURL{}, errNoQueue()
	}
	return queueURL{c.url(q)}, nil
}

func (s *sqsService) listQueues(c *caller, in *listQueuesInput) (listQueuesOutput, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var names []string
	for name := range s.queues {
		if strings.HasPrefix(name, in.QueueNamePrefix) {
			names = append(names, name)
		}
	}
	names, next, err := in.cut(names)
	if err != nil {
		return listQueuesOutput{}, err
	}
	return listQueuesOutput{QueueUrls: s.urls(c, names), NextToken: next}, nil
}

func (s *sqsService) listDeadLetterSourceQueues(c *caller, in *listSourcesInput) (listSourcesOutput, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	q, err := s.queueByURL(in.QueueUrl)
	if err != nil {
		return listSourcesOutput{}, err
	}
	var names []string
	for name, source := range s.queues {
		if source.redrive != nil && source.redrive.target == q.arn() {
			names = append(names, name)
		}
	}
	names, next, err := in.cut(names)
	if err != nil {
		return listSourcesOutput{}, err
	}
	return listSourcesOutput{QueueUrls: s.urls(c, names), NextToken: next}, nil
}

func (s *sqsService) urls(c *caller, names []string) []string {
	urls := make([]string, len(names))
	for i, name := range names {
		urls[i] = c.url(s.queues[name])
	}
	return urls
}

// cut sorts the names and returns the page that was asked for, with the token
// of the next. A token is only given to those who name a page's size.
func (p page) cut(names []string) ([]string, string, error) {
	size := maxPage
	if p.MaxResults != nil {
		if size = *p.MaxResults; size < 1 || size > maxPage {
			return nil, "", errValue(size, "MaxResults", "Value must be between 1 and %d", maxPage)
		}
	} else if p.NextToken != "" {
		return nil, "", errParameter("MaxResults is a mandatory parameter when you provide a value for NextToken.")
	}
	slices.Sort(names)
	if p.NextToken != "" {
		last, err := base64.RawURLEncoding.DecodeString(p.NextToken)
		if err != nil {
			return nil, "", errParameter("Invalid or expired next token.")
		}
		i, found := slices.BinarySearch(names, string(last))
		if found {
			i++
		}
		names = names[i:]
	}
	if len(names) <= size {
		return names, "", nil
	}
	names = names[:size]
	if p.MaxResults == nil {
		return names, "", nil
	}
	return names, base64.RawURLEncoding.EncodeToString([]byte(names[size-1])), nil
}

func (s *sqsService) getQueueAttributes(_ *caller, in *getAttributesInput) (attributesOutput, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	q, err := s.queueByURL(in.QueueUrl)
	if err != nil {
		return attributesOutput{}, err
	}
	attrs, err := q.readAttributes(in.AttributeNames)
	return attributesOutput{attrs}, err
}

func (s *sqsService) setQueueAttributes(_ *caller, in *setAttributesInput) (empty, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	q, err := s.queueByURL(in.QueueUrl)
	if err != nil {
		return empty{}, err
	}
	if len(in.Attributes) == 0 {
		return empty{}, errMissing("Attribute.Name")
	}
	if _, ok := in.Attributes["FifoQueue"]; ok {
		return empty{}, errAttributeName("FifoQueue")
	}
	if err := s.setAttributes(q, in.Attributes); err != nil {
		return empty{}, err
	}
	q.modified = s.clock.Now()
	q.settle(q.modified)
	q.notify()
	return empty{}, nil
}

func (s *sqsService) purgeQueue(_ *caller, in *queueRef) (empty, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	q, err := s.queueByURL(in.QueueUrl)
	if err != nil {
		return empty{}, err
	}
	now := s.clock.Now()
	if !q.purged.IsZero() && now.Before(q.purged.Add(deletedHold)) {
		return empty{}, errPurgeInProgress(q.name)
	}
	q.purged = now
	q.clear()
	return empty{}, nil
}

func (s *sqsService) tagQueue(_ *caller, in *tagInput) (empty, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	q, err := s.queueByURL(in.QueueUrl)
	if err != nil {
		return empty{}, err
	}
	if len(in.Tags) == 0 {
		return empty{}, errMissing("Tags")
	}
	added := 0
	for key := range in.Tags {
		if _, ok := q.tags[key]; !ok {
			added++
		}
	}
	if err := checkTags(in.Tags, len(q.tags)+added-len(in.Tags)); err != nil {
		return empty{}, err
	}
	maps.Copy(q.tags, in.Tags)
	return empty{}, nil
}

// checkTags judges tags that join others.
func checkTags(tags map[string]string, others int) error {
	if n := others + len(tags); n > maxTags {
		return errParameter("Too many tags added for queue: %d, maximum allowed is %d.", n, maxTags)
	}
	for key, value := range tags {
		switch {
		case key == "" || len([]rune(key)) > maxTagKey || strings.HasPrefix(strings.ToLower(key), "aws:"):
			return errParameter("Tag keys must be between 1 and %d characters in length and must not begin with aws:.", maxTagKey)
		case len([]rune(value)) > maxTagValue:
			return errParameter("Tag values must be between 0 and %d characters in length.", maxTagValue)
		}
	}
	return nil
}

func (s *sqsService) untagQueue(_ *caller, in *untagInput) (empty, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	q, err := s.queueByURL(in.QueueUrl)
	if err != nil {
		return empty{}, err
	}
	if len(in.TagKeys) == 0 {
		return empty{}, errMissing("TagKeys")
	}
	for _, key := range in.TagKeys {
		delete(q.tags, key)
	}
	return empty{}, nil
}

func (s *sqsService) listQueueTags(_ *caller, in *queueRef) (tagsOutput, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	q, err := s.queueByURL(in.QueueUrl)
	if err != nil {
		return tagsOutput{}, err
	}
	return tagsOutput{maps.Clone(q.tags)}, nil
}
