// Package scheduler runs jobs at intervals, a limited number at a time.
package scheduler

import (
	"context"
	"errors"
	"fmt"
	"sort"
	"sync"
	"time"
)

// Job is something to do again and again.
type Job struct {
	Name     string
	Interval time.Duration
	Run      func(ctx context.Context) error
}

type entry struct {
	job      Job
	next     time.Time
	running  bool
	failures int
	lastErr  error
}

// Scheduler keeps jobs and starts those that are due.
type Scheduler struct {
	mu      sync.Mutex
	entries map[string]*entry
	slots   chan struct{}
	now     func() time.Time
	wg      sync.WaitGroup
}

// New makes a scheduler that runs at most limit jobs at a time.
func New(limit int) *Scheduler {
	return &Scheduler{
		entries: make(map[string]*entry),
		slots:   make(chan struct{}, limit),
		now:     time.Now,
	}
}

func (s *Scheduler) Add(job Job) error {
	if job.Interval <= 0 {
		return errors.New("the interval must be positive")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.entries[job.Name]; ok {
		return fmt.Errorf("job %q exists already", job.Name)
	}
	s.entries[job.Name] = &entry{job: job, next: s.now().Add(job.Interval)}
	return nil
}

func (s *Scheduler) Remove(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.entries[name]
	delete(s.entries, name)
	return ok
}

func (s *Scheduler) due() []*entry {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	var found []*entry
	for _, e := range s.entries {
		if !e.running && !e.next.After(now) {
			e.running = true
			found = append(found, e)
		}
	}
	sort.Slice(found, func(i, j int) bool { return found[i].next.Before(found[j].next) })
	return found
}

func (s *Scheduler) start(ctx context.Context, e *entry) {
	s.wg.Add(1)
	go func() {
		defer s.wg.Done()
		s.slots <- struct{}{}
		defer func() { <-s.slots }()
		err := e.job.Run(ctx)
		s.mu.Lock()
		defer s.mu.Unlock()
		e.running = false
		e.lastErr = err
		if err != nil {
			e.failures++
		}
		e.next = s.now().Add(e.job.Interval)
	}()
}

// Tick starts what is due; it does not wait for the jobs.
func (s *Scheduler) Tick(ctx context.Context) int {
	found := s.due()
	for _, e := range found {
		s.start(ctx, e)
	}
	return len(found)
}

// Loop ticks until the context ends, then waits for running jobs.
func (s *Scheduler) Loop(ctx context.Context, every time.Duration) {
	ticker := time.NewTicker(every)
	for {
		select {
		case <-ctx.Done():
			s.wg.Wait()
			return
		case <-ticker.C:
			s.Tick(ctx)
		}
	}
}

func (s *Scheduler) Failures() map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	found := make(map[string]int)
	for name, e := range s.entries {
		if e.failures > 0 {
			found[name] = e.failures
		}
	}
	return found
}
