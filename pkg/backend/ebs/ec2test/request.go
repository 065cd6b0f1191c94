package ec2test

import (
	"fmt"
	"net/http"
	"net/url"
	"sort"
	"strconv"
	"strings"
	"time"
)

// request returns parameters and remembers which were read.
type request struct {
	now  time.Time
	p    url.Values
	used map[string]bool
	err  error // the first error
}

func (q *request) str(name string) string {
	q.used[name] = true
	return q.p.Get(name)
}

func (q *request) has(name string) bool {
	q.used[name] = true
	return q.p.Has(name)
}

func (q *request) num(name string) int64 {
	s := q.str(name)
	if s == "" {
		return 0
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		q.err = fail("InvalidParameterValue", "Invalid value '%s' for %s", s, name)
	}
	return n
}

func (q *request) flag(name string) bool { return q.str(name) == "true" }

// list reads name.1, name.2, ...
func (q *request) list(name string) []string {
	var l []string
	for i := 1; ; i++ {
		key := fmt.Sprintf("%s.%d", name, i)
		if !q.has(key) {
			return l
		}
		l = append(l, q.p.Get(key))
	}
}

// tags returns the tags of one TagSpecification.
func (q *request) tags(resource string) map[string]string {
	tags := map[string]string{}
	for i := 1; q.has(fmt.Sprintf("TagSpecification.%d.ResourceType", i)); i++ {
		base := fmt.Sprintf("TagSpecification.%d", i)
		if got := q.p.Get(base + ".ResourceType"); got != resource {
			q.err = fail("InvalidParameterValue", "'%s' is not a valid taggable resource type for this operation.", got)
		}
		q.tagList(base+".Tag", tags)
	}
	return tags
}

func (q *request) tagList(base string, tags map[string]string) {
	for j := 1; q.has(fmt.Sprintf("%s.%d.Key", base, j)); j++ {
		k, v := q.p.Get(fmt.Sprintf("%s.%d.Key", base, j)), q.str(fmt.Sprintf("%s.%d.Value", base, j))
		switch {
		case k == "" || len([]rune(k)) > 128 || len([]rune(v)) > 256:
			q.err = fail("InvalidParameterValue", "Tag key or value exceeds the maximum length")
		case strings.HasPrefix(k, "aws:"):
			q.err = fail("InvalidParameterValue", "Tag keys starting with 'aws:' are reserved for internal use")
		}
		tags[k] = v
	}
	if len(tags) > 50 {
		q.err = fail("TagLimitExceeded", "The maximum number of tags has been reached")
	}
}

type filter struct {
	name   string
	values []string
}

func (q *request) filters() []filter {
	var l []filter
	n := 0
	for i := 1; q.has(fmt.Sprintf("Filter.%d.Name", i)); i++ {
		f := filter{q.p.Get(fmt.Sprintf("Filter.%d.Name", i)), q.list(fmt.Sprintf("Filter.%d.Value", i))}
		n += len(f.values)
		l = append(l, f)
	}
	if n > 200 {
		q.err = fail("FilterLimitExceeded", "The maximum number of filter values specified on a single call is 200")
	}
	return l
}

// finish refuses parameters that were not read, and answers a dry run.
func (q *request) finish() error {
	if q.err != nil {
		return q.err
	}
	var unknown []string
	for k := range q.p {
		if !q.used[k] {
			unknown = append(unknown, k)
		}
	}
	sort.Strings(unknown)
	if len(unknown) > 0 {
		return fail("UnknownParameter", "The parameter %s is not recognized", unknown[0])
	}
	return nil
}

// check must be called when all parameters have been read, before anything is changed.
func (q *request) check() error {
	dry := q.flag("DryRun")
	if err := q.finish(); err != nil {
		return err
	}
	if dry {
		return &apiError{http.StatusPreconditionFailed, "DryRunOperation", "Request would have succeeded, but DryRun flag is set."}
	}
	return nil
}

// page cuts a sorted list, whose members have rising sequence numbers, after MaxResults.
func page[T any](q *request, all []T, seq func(T) int64, longest int, byID bool) ([]T, string, error) {
	most, token := int(q.num("MaxResults")), q.str("NextToken")
	switch {
	case q.has("MaxResults") && byID:
		return nil, "", fail("InvalidParameterCombination", "The parameter MaxResults cannot be used with the ids parameter")
	case q.has("MaxResults") && (most < 5 || most > 1000):
		return nil, "", fail("InvalidParameterValue", "Value ( %d ) for parameter maxResults is invalid. Expecting a value between 5 and 1000.", most)
	case most == 0:
		most = longest
	}
	if token != "" {
		after, err := strconv.ParseInt(strings.TrimPrefix(token, "after-"), 10, 64)
		if err != nil || !strings.HasPrefix(token, "after-") {
			return nil, "", fail("InvalidNextToken", "The token '%s' is invalid", token)
		}
		i := sort.Search(len(all), func(i int) bool { return seq(all[i]) > after })
		all = all[i:]
	}
	if len(all) <= most {
		return all, "", nil
	}
	return all[:most], fmt.Sprintf("after-%d", seq(all[most-1])), nil
}
