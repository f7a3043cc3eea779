// Points, polygons and their hull in the plane.

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <stdexcept>
#include <vector>

namespace geometry {

struct Point {
    double x = 0;
    double y = 0;
};

inline Point operator+(Point a, Point b) { return {a.x + b.x, a.y + b.y}; }
inline Point operator-(Point a, Point b) { return {a.x - b.x, a.y - b.y}; }
inline Point operator*(double s, Point p) { return {s * p.x, s * p.y}; }
inline bool operator==(Point a, Point b) { return a.x == b.x && a.y == b.y; }

double dot(Point a, Point b) { return a.x * b.x + a.y * b.y; }

double cross(Point a, Point b) { return a.x * b.y - a.y * b.x; }

double length(Point p) { return std::sqrt(dot(p, p)); }

double distance(Point a, Point b) { return length(b - a); }

struct Segment {
    Point from;
    Point to;
};

double distance(Point p, Segment s) {
    Point along = s.to - s.from;
    double squared = dot(along, along);
    if (squared == 0) {
        return distance(p, s.from);
    }
    double share = dot(p - s.from, along) / squared;
    share = std::clamp(share, 0.0, 1.0);
    return distance(p, s.from + share * along);
}

std::optional<Point> intersection(Segment a, Segment b) {
    Point r = a.to - a.from;
    Point s = b.to - b.from;
    double denominator = cross(r, s);
    if (denominator == 0) {
        return std::nullopt;
    }
    double t = cross(b.from - a.from, s) / denominator;
    double u = cross(b.from - a.from, r) / denominator;
    if (t < 0 || t > 1 || u < 0 || u > 1) {
        return std::nullopt;
    }
    return a.from + t * r;
}

class Polygon {
public:
    explicit Polygon(std::vector<Point> corners) : corners_(std::move(corners)) {
        if (corners_.size() < 3) {
            throw std::invalid_argument("a polygon has at least three corners");
        }
    }

    const std::vector<Point>& corners() const { return corners_; }

    double area() const {
        double sum = 0;
        for (size_t i = 0; i < corners_.size(); i++) {
            sum += cross(corners_[i], corners_[(i + 1) % corners_.size()]);
        }
        return std::abs(sum);
    }

    double perimeter() const {
        double sum = 0;
        for (size_t i = 0; i < corners_.size(); i++) {
            sum += distance(corners_[i], corners_[(i + 1) % corners_.size()]);
        }
        return sum;
    }

    bool contains(Point p) const {
        bool inside = false;
        for (size_t i = 0, j = corners_.size() - 1; i < corners_.size(); j = i++) {
            Point a = corners_[i], b = corners_[j];
            if ((a.y > p.y) != (b.y > p.y)) {
                double x = (b.x - a.x) * (p.y - a.y) / (b.y - a.y) + a.x;
                if (p.x < x) {
                    inside = !inside;
                }
            }
        }
        return inside;
    }

private:
    std::vector<Point> corners_;
};

std::vector<Point> hull(std::vector<Point> points) {
    std::sort(points.begin(), points.end(), [](Point a, Point b) {
        return a.x < b.x || (a.x == b.x && a.y < b.y);
    });
    std::vector<Point> found(2 * points.size());
    size_t count = 0;
    for (size_t i = 0; i < points.size(); i++) {
        while (count >= 2 && cross(found[count - 1] - found[count - 2], points[i] - found[count - 2]) <= 0) {
            count--;
        }
        found[count++] = points[i];
    }
    for (size_t i = points.size() - 1, lower = count + 1; i-- > 0;) {
        while (count >= lower && cross(found[count - 1] - found[count - 2], points[i] - found[count - 2]) <= 0) {
            count--;
        }
        found[count++] = points[i];
    }
    found.resize(count - 1);
    return found;
}

}  // namespace geometry
