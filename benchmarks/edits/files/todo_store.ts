// Aufgaben im Speicher, mit Filtern, Sortierung und Rückgängig.

export type Priority = "low" | "normal" | "high";

export interface Todo {
  id: number;
  title: string;
  done: boolean;
  priority: Priority;
  created: Date;
  due?: Date;
  tags: string[];
}

export interface Filter {
  done?: boolean;
  priority?: Priority;
  tag?: string;
  text?: string;
}

type Listener = (todos: readonly Todo[]) => void;

const ORDER: Record<Priority, number> = { high: 0, normal: 1, low: 2 };

export class TodoStore {
  private todos: Todo[] = [];
  private history: Todo[][] = [];
  private listeners = new Set<Listener>();
  private nextId = 1;

  subscribe(listener: Listener): () => void {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }

  // Legt eine Aufgabe an und gibt sie zurück.
  add(title: string, priority: Priority = "normal", tags: string[] = []): Todo {
    const todo: Todo = {
      id: this.nextId++,
      title: title.trim(),
      done: false,
      priority,
      created: new Date(),
      tags: [...tags],
    };
    this.change([...this.todos, todo]);
    return todo;
  }

  // Ändert Felder einer Aufgabe; eine unbekannte Nummer ist ein Fehler.
  update(id: number, fields: Partial<Omit<Todo, "id" | "created">>): Todo {
    const index = this.todos.findIndex((todo) => todo.id === id);
    if (index < 0) {
      throw new Error(`there is no todo ${id}`);
    }
    const changed = { ...this.todos[index], ...fields };
    this.change(this.todos.map((todo) => (todo.id === id ? changed : todo)));
    return changed;
  }

  toggle(id: number): Todo {
    const todo = this.get(id);
    return this.update(id, { done: !todo.done });
  }

  remove(id: number): void {
    this.change(this.todos.filter((todo) => todo.id !== id));
  }

  get(id: number): Todo {
    const found = this.todos.find((todo) => todo.id === id);
    if (found === undefined) {
      throw new Error(`there is no todo ${id}`);
    }
    return found;
  }

  // Offene Aufgaben zuerst, dann nach Wichtigkeit, dann nach Alter.
  list(filter: Filter = {}): Todo[] {
    return this.todos
      .filter((todo) => filter.done === undefined || todo.done === filter.done)
      .filter((todo) => filter.priority === undefined || todo.priority === filter.priority)
      .filter((todo) => filter.tag === undefined || todo.tags.includes(filter.tag))
      .filter((todo) => filter.text === undefined || todo.title.includes(filter.text))
      .sort((a, b) => Number(a.done) - Number(b.done))
      .sort((a, b) => ORDER[a.priority] - ORDER[b.priority])
      .sort((a, b) => a.created.getTime() - b.created.getTime());
  }

  overdue(now: Date = new Date()): Todo[] {
    return this.todos.filter((todo) => !todo.done && todo.due !== undefined && todo.due < now);
  }

  // Nimmt die letzte Änderung zurück; falsch, wenn es keine gibt.
  undo(): boolean {
    const before = this.history.pop();
    if (before === undefined) {
      return false;
    }
    this.todos = before;
    this.notify();
    return true;
  }

  private change(todos: Todo[]): void {
    this.history.push(this.todos);
    this.todos = todos;
    this.notify();
  }

  private notify(): void {
    for (const listener of this.listeners) {
      listener(this.todos);
    }
  }
}
